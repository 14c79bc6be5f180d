#!/bin/sh
# Screenshots of the lab's report in a real browser, in four forms: 390 and 1280 pixels wide, light and dark.
#   lab/screenshots.sh [REPORT.html] [FOLDER] [ANCHOR]
# ANCHOR is the id of an experiment on the page, such as x-3dc7634036a8; without one the top of the page is shown.
# The browser is CHROMIUM, or the first found on the path. Without one this says so and ends well.
set -eu
page=${1:-lab-report.html}
out=${2:-docs/img}
anchor=${3:-}

browser=${CHROMIUM:-}
for name in chromium-headless-shell chromium chromium-browser google-chrome chrome; do
    [ -n "$browser" ] || browser=$(command -v "$name" || true)
done
if [ -z "$browser" ]; then
    echo "skipped: no Chromium on the path; set CHROMIUM, or install the package chromium-headless-shell"
    exit 0
fi
[ -f "$page" ] || { echo "$page is not there; write it with: tamp lab report --out $page" >&2; exit 1; }

mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
kind=top
alone=
tall=900
if [ -n "$anchor" ]; then
    kind=experiment
    # A browser that takes a picture at once does not scroll first: everything else is hidden instead.
    alone=".top,.meaning,footer,h2,section:not(#experiments),article.x:not(#$anchor){display:none}"
    tall=1500
fi
sed "s|</head>|<style>$alone</style></head>|" "$page" > "$work/page.html"
for scheme in light dark; do
    # Blink's numbers: 0 is dark, 1 is light.
    number=$([ "$scheme" = dark ] && echo 0 || echo 1)
    for size in 390,$tall 1280,$tall; do
        file="$out/report-$kind-${size%,*}-$scheme.png"
        "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$work/profile" \
            --window-size="$size" --blink-settings=preferredColorScheme=$number --virtual-time-budget=2000 \
            --screenshot="$work/shot.png" "file://$work/page.html" >/dev/null 2>&1
        mv "$work/shot.png" "$file"
        echo "$file"
    done
done
