#!/bin/sh
# SPDX-License-Identifier: MIT
# tandem plan: tables, Markdown, JSON and the page; the balanced machine; published tables; and
# questions that make no sense, each with one sentence.
#   test_plan.sh TANDEM DATA
. "$(dirname "$0")/lib.sh"

# A plan, in every form.
ok "$TANDEM" plan -m gpt-oss-120b --machines dgx-spark,m2-ultra --link 10GbE
out_has "DGX Spark (GB10)"
out_has "In tandem over 10GbE"
out_has "split"
out_has "90 % of new measurements"
ok "$TANDEM" plan -m gpt-oss-120b -o md
out_has "| machine |"
ok "$TANDEM" plan -m gpt-oss-120b --machines dgx-spark,m2-ultra --link 10GbE -o json
cp "$TMP/out" "$TMP/plan.json"
out_has '"gain"'
out_has '"pays_from_tokens"'
ok "$TANDEM" plan -m gpt-oss-120b --machines all -o html
out_has "<!doctype html>"
out_has '"covariance"'
for part in @STYLE@ @CORE@ @VIEW@ @DATA@; do
    ! grep -q "$part" "$TMP/out" || failed "the page still holds $part"
done
ok "$TANDEM" plan -m gpt-oss-120b --explain --power
out_has "Where the seconds go"
out_has "Wh"

# Nobody has measured a Thor: an interval and no number.
ok "$TANDEM" plan -m gpt-oss-120b --machines thor
out_has "nobody has measured"
! grep -Eq 'Thor.* [0-9.]+ \(' "$TMP/out" || failed "a number for a machine that nobody has measured"

# A file, and random weights of a known shape, priced op by op.
ok "$TANDEM" plan -m "$DATA/gptoss-tiny.gguf" --machines dgx-spark
ok "$TANDEM" plan -m synth:gpt-oss-20b --machines dgx-spark
out_has "synth:gpt-oss-20b"

# Who does what is asked for.
ok "$TANDEM" plan -m gpt-oss-120b --machines all --budget 2100
out_has "Strix Halo"
! grep -q "H200" "$TMP/out" || failed "an H200 for 2100 USD"
ok "$TANDEM" plan -m gpt-oss-120b --machines all --tps 60 --ttft 7
! grep -q "Strix" "$TMP/out" || failed "a Strix Halo writes 60 tokens a second"

ok "$TANDEM" plan --golden -m gpt-oss-120b
out_has "FLOP per byte"
ok "$TANDEM" plan --golden -m gpt-oss-120b -o json
out_has '"steady_flop_per_byte"'
ok "$TANDEM" plan --table published
out_has "published 2.32"
! grep -q OUTSIDE "$TMP/out" || failed "a cell outside of its interval"
ok "$TANDEM" plan --table published -o json
out_has '"is_inside"'

# Nonsense.
mistake 1 "needs" "$TANDEM" plan -m DeepSeek-V3 --machines dgx-spark
mistake 1 "no machine of these" "$TANDEM" plan -m gpt-oss-120b --machines all --tps 100000
mistake 2 "there is no machine 'abacus'" "$TANDEM" plan -m gpt-oss-120b --machines abacus
mistake 2 "there is no machine ''" "$TANDEM" plan -m gpt-oss-120b --machines dgx-spark,
mistake 2 "there is no model 'gpt-9'" "$TANDEM" plan -m gpt-9
mistake 2 "-m MODEL is missing" "$TANDEM" plan
mistake 2 "--prompt" "$TANDEM" plan -m gpt-oss-120b -p -5
mistake 2 "--prompt" "$TANDEM" plan -m gpt-oss-120b -p 0
mistake 2 "--batch" "$TANDEM" plan -m gpt-oss-120b --batch 0
mistake 2 "--link" "$TANDEM" plan -m gpt-oss-120b --link 0
mistake 2 "--link" "$TANDEM" plan -m gpt-oss-120b --link -10GbE
mistake 2 "--link" "$TANDEM" plan -m gpt-oss-120b --link string
mistake 2 "--quant" "$TANDEM" plan -m gpt-oss-120b --quant Q99
mistake 2 "--price-flops" "$TANDEM" plan --golden -m gpt-oss-120b --price-flops 0
mistake 2 "-o html" "$TANDEM" plan --golden -m gpt-oss-120b -o html
mistake 1 "nowhere.csv" "$TANDEM" plan --validate "$TMP/nowhere.csv"
mistake 1 "nowhere.csv" "$TANDEM" plan -m gpt-oss-120b --measured "$TMP/nowhere.csv"
echo "device,backend" >"$TMP/short.csv"
mistake 1 "has no column" "$TANDEM" plan --validate "$TMP/short.csv"

finish
