#!/bin/bash
# Runs a command as a stranger would: in a fresh clone of this repository on a bare Debian 12.
#
#   validation/chroot_check.sh ./nearkv figure fig14
#   validation/chroot_check.sh ./nearkv test
#
# Needs root, debootstrap, git and a Debian mirror; takes some minutes and about 2 GiB below
# $TMPDIR. What is not committed is not in the clone. Prints what the command printed, its exit
# status and its time, ends with that status, and leaves nothing behind.
set -euo pipefail

[ $# -gt 0 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
[ "$(id -u)" = 0 ] || { echo "chroot_check: only root can run a chroot" >&2; exit 2; }

source_root=$(git -C "$(dirname "$(readlink -f "$0")")" rev-parse --show-toplevel)
work=$(mktemp -d)
system=$work/debian

clean_up() {
  umount "$system/proc" 2>/dev/null || true
  rm -rf --one-file-system "$work"
}
trap clean_up EXIT

# The first source of the calling system that has Debian 12 itself.
mirror=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
  sed -n 's/^bookworm //p' | head -n 1)
[ -n "$mirror" ] || { echo "chroot_check: apt knows no source of Debian 12" >&2; exit 1; }

echo "chroot_check: Debian 12 (minbase) from $mirror"
if ! debootstrap --variant=minbase bookworm "$system" "$mirror" >"$work/debootstrap.log" 2>&1; then
  tail -n 20 "$work/debootstrap.log" >&2
  echo "chroot_check: debootstrap failed" >&2
  exit 1
fi

# The way to the mirror is the calling system's; the packages are not.
shopt -s nullglob
rm -f "$system/etc/apt/sources.list"
for path in /etc/apt/{sources.list*,apt.conf*,trusted.gpg*,auth*,keyrings}; do
  cp -rL "$path" "$system/etc/apt/"
done
for path in /etc/hosts /etc/resolv.conf; do
  [ ! -e "$path" ] || cp -L "$path" "$system$path"
done
# A /proc of its own, as every machine has; without the right to mount it goes on without.
mount -t proc proc "$system/proc" 2>/dev/null || true

git clone --quiet --no-hardlinks "$source_root" "$system/root/nearkv"
changed=$(git -C "$source_root" status --porcelain | wc -l)
[ "$changed" = 0 ] || echo "chroot_check: $changed changed or new files are not committed: left out"
echo "chroot_check: commit $(git -C "$system/root/nearkv" log -1 --format='%h %s')"

environment=(HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin)
for name in http_proxy https_proxy no_proxy; do
  [ -z "${!name:-}" ] || environment+=("$name=${!name}")
done

echo "chroot_check: \$ $*"
started=$SECONDS
status=0
env -i "${environment[@]}" chroot "$system" \
  /bin/bash -c 'cd /root/nearkv && "$@"' bash "$@" </dev/null || status=$?
echo "chroot_check: exit status $status after $((SECONDS - started)) s"
exit "$status"
