#!/bin/sh
# The whole chain on the music beside this file, in a new folder: sh examples/demo.sh [FOLDER]
# Needs `dualdiff` on the PATH. The last line on stdout is the path of the clip; the rest goes to stderr.
set -eu

music=$(cd "$(dirname "$0")" && pwd)/music
folder=${1:-demo}
if [ -e "$folder" ]; then
    echo "error: $folder exists already; name a new folder: sh examples/demo.sh FOLDER" >&2
    exit 2
fi
mkdir -p "$folder"
cd "$folder"

step() {
    echo "\$ dualdiff $*" >&2
    dualdiff "$@" >&2
}

step init --preset nano --name demo
step dataset scan "$music"
step format roundtrip "$music/Pekka Kana 2/$(ls "$music/Pekka Kana 2" | head -n 1)" --seconds 10 --out roundtrip
step vae train
step encode
step unet train
echo '$ dualdiff generate --game "Pekka Kana 2:0.7,Noiz2sa:0.3" --length 12' >&2
dualdiff generate --game "Pekka Kana 2:0.7,Noiz2sa:0.3" --length 12 --out "$(pwd)"
