"""What is left of sparsity in pages: a sweep as configs/sweeps/sparsity_page_size.json."""

import sys

import style

try:
    import nearkv
except ModuleNotFoundError as missing:
    print(f"{missing.name} is missing; install the Debian package python3-{missing.name}",
          file=sys.stderr)
    sys.exit(style.EXIT_PACKAGE_MISSING)

import lines

DENSE = "dense"
KIB = 1024
TB = 1e12
MARKS = ("s", "D", "v", "^", "P", "X")
TRAFFIC = "decode_traffic/csd/0/flash/read"


def look(compression, place, count):
    """Dense attention as everywhere, SparF from light (reads much) to dark (reads little)."""
    if compression == DENSE:
        label, colour, _ = style.look_of("insti_dense")
        return label, colour, "o"
    _, colour, _ = style.look_of("insti_sparf")
    return f"SparF {compression}", style.shade(colour, 1.3 - 1.2 * place / count), MARKS[place]


def draw(axes, frame, values, bound):
    sparse = [name for name in dict.fromkeys(frame["compression"]) if name != DENSE]
    for compression in [DENSE, *sparse]:
        rows = frame[frame["compression"] == compression]
        place = sparse.index(compression) if compression in sparse else 0
        errors = None
        if bound is not None:
            errors = list(zip(rows[values] - rows[bound], rows[values] + rows[bound]))
        lines.draw_line(axes, list(zip(rows["page_size"] / KIB, rows[values])),
                        look(compression, place, len(sparse)), errors)
        if compression == DENSE:
            axes.containers[-1].lines[0].set_linestyle("--")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    lines.mark_values(axes.xaxis, sorted(set(frame["page_size"] / KIB)))
    axes.set_xlabel("flash page (KiB)")
    axes.grid(axis="y", which="both")


def main():
    folder, stem = style.arguments("SWEEP_FOLDER")
    results = nearkv.read(folder)
    frame = results.ran().assign(read=results.ran()[TRAFFIC] / TB)
    style.apply()
    figure, (speed, traffic) = style.plt.subplots(
        1, 2, figsize=(style.TEXT_WIDTH, 2.6), layout="constrained")
    draw(speed, frame, "throughput", "throughput_bound")
    speed.set_ylabel(results.label("throughput"))
    lines.mark_values(speed.yaxis, [3, 5, 10, 20, 30])
    draw(traffic, frame, "read", None)
    traffic.set_ylabel("read from flash in decode (TB)")
    lines.mark_values(traffic.yaxis, [2.5, 5, 10, 20, 40])
    handles, labels = speed.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1),
                  ncol=len(labels), frameon=False)
    style.save(figure, stem)


if __name__ == "__main__":
    main()
