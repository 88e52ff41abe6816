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

# One's own machine, by what probe and bench wrote.
cat >"$TMP/machine.json" <<'J'
{"cpu_info": "A CPU of ours", "memory_bytes": 34359738368,
 "all_threads": {"n_threads": 8, "read_bytes_per_s": 5e10, "int8_ops_per_s": 4e12}}
J
row='"cpu_info": "A CPU of ours", "model_filename": "synth:tiny", "n_depth": 0, "n_ubatch": 512,
 "machine_int8_ops_per_s": 4e12, "machine_read_bytes_per_s": 5e10'
printf '[{%s, "n_prompt": 256, "n_gen": 0, "median_ts": 40000},\n{%s, "n_prompt": 0, "n_gen": 16, "median_ts": 900}]\n' \
    "$row" "$row" >"$TMP/bench.json"
ok "$TANDEM" plan -m gpt-oss-20b --machines "$TMP/machine.json,dgx-spark" --link 10GbE
out_has "A CPU of ours"
out_has "tandem CPU"
ok "$TANDEM" plan -m synth:tiny --machines "$TMP/bench.json" -o json
out_has "A CPU of ours"
ok "$TANDEM" plan -m gpt-oss-20b --machines "$TMP/machine.json" --measured "$TMP/bench.json" -o html
out_has "A CPU of ours"
ok "$TANDEM" plan --golden -m gpt-oss-20b --machines "$TMP/machine.json"
ok "$TANDEM" plan --validate "$TMP/bench.json" --machines "$TMP/machine.json"
out_has "2 rows: error"
ok "$TANDEM" plan --validate "$TMP/bench.json" --measured "$TMP/bench.json" -o json
out_has '"median_ape"'
mistake 1 "holds no measurements" "$TANDEM" plan --validate "$TMP/machine.json"
mistake 1 "nowhere.json" "$TANDEM" plan -m gpt-oss-20b --machines "$TMP/nowhere.json"
mistake 1 "--machines: here a file" "$TANDEM" plan --validate "$TMP/bench.json" --machines dgx-spark
sed 's/900/-1/' "$TMP/bench.json" >"$TMP/bad.json"
mistake 1 "row 2: field 'median_ts' is out of range" "$TANDEM" plan -m gpt-oss-20b \
    --machines "$TMP/machine.json" --measured "$TMP/bad.json"
echo '[{"cpu_info": 1}]' >"$TMP/bad.json"
mistake 1 "field 'cpu_info' is missing" "$TANDEM" plan --validate "$TMP/bad.json"
echo '[1' >"$TMP/bad.json"
mistake 1 "no JSON" "$TANDEM" plan --validate "$TMP/bad.json"
echo '[]' >"$TMP/bad.json"
mistake 1 "neither of" "$TANDEM" plan --validate "$TMP/bad.json"

# What no machine holds alone.
ok "$TANDEM" plan -m DeepSeek-V3 --machines m3-ultra-80c,dgx-spark --link TB5
out_has "2 x Apple M3 Ultra 80c"
out_has "Apple M3 Ultra 80c + DGX Spark (GB10)"
ok "$TANDEM" plan -m DeepSeek-V3 --machines m3-ultra-80c --link TB5 -o json
out_has '"cut_by": "tensors"'
ok "$TANDEM" plan -m gpt-oss-120b --machines rtx-5090,dgx-spark --link 10GbE -o md
out_has "| 3 x RTX 5090 | layers |"
mistake 1 "needs" "$TANDEM" plan -m DeepSeek-V3 --machines raspberry --link 1GbE

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
