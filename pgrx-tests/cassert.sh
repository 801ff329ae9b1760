#!/bin/sh
# Builds a PostgreSQL that checks its assertions, from Debian's source package, into the folder pg of $1.
# APT gets lists of its own there: those of this machine, asked for sources. Nothing of the machine's is changed.
set -eu

root=$1
[ ! -e "$root/done" ] || exit 0
mkdir -p "$root/apt/sources" "$root/apt/lists/partial" "$root/apt/cache/archives/partial" "$root/source"
cd "$root"

for list in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
    case "$list" in
    *.list) [ ! -f "$list" ] || sed -E 's/^deb([ \t])/deb-src\1/' "$list" > "apt/sources/${list##*/}" ;;
    *.sources) sed -E 's/^Types:.*/Types: deb-src/' "$list" > "apt/sources/${list##*/}" ;;
    esac
done
from_sources() {
    "$@" -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$root/apt/sources" \
        -o Dir::State::Lists="$root/apt/lists" -o Dir::Cache="$root/apt/cache" -o APT::Sandbox::User=root
}
from_sources apt-get update -q

# The server's own version if its source is there; a mirror may lack the newest one.
installed=$(dpkg-query -W -f '${source:Version}' postgresql-15)
for version in $installed $(from_sources apt-cache showsrc postgresql-15 | sed -n 's/^Version: //p'); do
    (cd source && rm -rf ./* && from_sources apt-get source -q --download-only "postgresql-15=$version") && break
    echo "== no source of $version"
done
dpkg-source -x source/*.dsc source/tree

# What the tests need of Debian's options; -O1 leaves the assertions' lines in order.
cd source/tree
./configure -q --prefix="$root/pg" --enable-cassert --enable-debug --with-icu --with-libxml --without-readline CFLAGS=-O1
for part in . contrib; do nice make -s -j"$(nproc)" -C $part; done
for part in . contrib src/test/regress src/test/isolation; do make -s -C $part install; done
touch "$root/done"
