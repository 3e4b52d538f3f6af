# %% [markdown]
# # More channels or faster flash?
#
# A computational storage drive has 64 flash dies. They can sit on few channels or on many, and
# the dies can be of a fast kind or a slow one. What does each buy in-storage attention, and which
# drive is the simplest that reaches a given throughput?

# %%
from settings import FOLDER, QUICK, WORKERS, show

import nearkv

TARGET = 15  # token/s

# %% [markdown]
# The sweep is a dict with what a sweep file would say. `zip` moves two values together, so that
# every drive has the same dies. The design point is the shipped one.

# %%
CHANNELS = [4, 16] if QUICK else [4, 8, 16, 32]
DIES = 64
design_sweep = {
    "title": "64 dies on 4 to 32 channels, tR from 5 to 80 us",
    "point": {
        **nearkv.shipped("design_points/insti_sparf_opt13b_a6000.json"),
        "workload": {"batch": 8 if QUICK else 64},
    },
    "axes": [
        {"zip": [
            {"path": "/csd/0/flash/channels", "values": CHANNELS},
            {"path": "/csd/0/flash/chips_per_channel",
             "values": [DIES // channels for channels in CHANNELS]},
        ]},
        {"path": "/csd/0/flash/t_read",
         "range": {"from": "5us", "to": "80us", "count": 2 if QUICK else 5, "scale": "log"}},
    ],
    "metrics": ["throughput", "throughput_bound", "cost_per_million_tokens",
                "energy_per_token", "utilization/csd/0/flash/*"],
}
results = nearkv.sweep(design_sweep, name="design_sweep", out=FOLDER, jobs=WORKERS)
frame = results.ran()
assert len(frame) == len(results), results.frame[["status", "detail"]]
print(results)
print(frame[["channels", "t_read", "throughput", "cost_per_million_tokens"]].to_string())

# %% [markdown]
# What does each of the two buy? Group by one, look along the other.

# %%
by_channels = frame.groupby("channels")["throughput"].agg(["min", "max"])
by_t_read = frame.groupby("t_read")["throughput"].agg(["min", "max"])
print(by_channels, by_t_read, sep="\n\n")
table = frame.pivot(index="t_read", columns="channels", values="throughput")
gain_of_channels = table[CHANNELS[-1]] / table[CHANNELS[0]]
gain_of_flash = table.iloc[0] / table.iloc[-1]  # the index rises: the first row is the fastest

# %% [markdown]
# Which drives are worth a thought? Those that no other beats in all respects: many token/s, few
# channels (pins, controllers), slow flash (which is cheap).

# %%
def pareto_front(points, maximize, minimize):
    """The rows that no other row equals or beats everywhere and beats somewhere."""
    values = points[[*maximize, *minimize]].copy()
    values[list(minimize)] *= -1
    beaten = [
        ((values >= row).all(axis=1) & (values > row).any(axis=1)).any()
        for _, row in values.iterrows()
    ]
    return points[[not one for one in beaten]]


frame = frame.assign(slowness=-frame["t_read"])
front = pareto_front(frame, maximize=["throughput"], minimize=["channels", "slowness"])
enough = front[front["throughput"] >= TARGET].sort_values(
    ["channels", "t_read"], ascending=[True, False])
print(front[["channels", "t_read", "throughput"]].sort_values("throughput").to_string())

# %% [markdown]
# A picture: a line for each number of channels.

# %%
import style  # noqa: E402  (draws with Agg, which a notebook's own pictures need not)

import lines  # noqa: E402

MICROSECOND = 1e-6
style.apply()
figure, axes = lines.new_axes()
for place, channels in enumerate(CHANNELS):
    rows = frame[frame["channels"] == channels]
    shade = style.shade(style.look_of("insti_sparf")[1], 1.5 - 1.2 * place / len(CHANNELS))
    lines.draw_line(axes, list(zip(rows["t_read"] / MICROSECOND, rows["throughput"])),
                    (f"{channels} channels", shade, "osD^"[place]))
axes.axhline(TARGET, color="black", linewidth=0.6, linestyle="--")
axes.set_xscale("log")
axes.set_ylim(bottom=0)
lines.mark_values(axes.xaxis, sorted(set((frame["t_read"] / MICROSECOND).round(1))))
axes.set_xlabel("tR (us)")
axes.set_ylabel(results.label("throughput"))
axes.grid(axis="y")
lines.legend(axes, columns=2)
style.save(figure, FOLDER / "design_sweep")
show(FOLDER / "design_sweep.png")

# %% [markdown]
# The answer in a sentence.

# %%
print(f"With {DIES} dies, {CHANNELS[-1]} channels in place of {CHANNELS[0]} give "
      f"{gain_of_channels.min():.2f} to {gain_of_channels.max():.2f} times the throughput, and tR "
      f"of {1e6 * table.index[0]:.0f} us in place of {1e6 * table.index[-1]:.0f} us gives "
      f"{gain_of_flash.min():.2f} to {gain_of_flash.max():.2f} times.")
if enough.empty:
    print(f"None of the drives reaches {TARGET} token/s.")
else:
    simplest = enough.iloc[0]
    print(f"The simplest drive with {TARGET} token/s or more has {simplest['channels']:.0f} "
          f"channels and flash of {1e6 * simplest['t_read']:.0f} us: "
          f"{simplest['throughput']:.3g} token/s.")
