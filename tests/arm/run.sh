#!/usr/bin/env bash
# Cross-compiles the kernels for aarch64 and runs them under emulation: the NEON units and the portable
# one against the numpy reference and, bit for bit, against this machine's kernels; the encoder's
# bytes against this machine's; histories of the slot table, of the router's rule
# and of the choice for a token against this machine's; and the
# drive reader, whose io_uring is absent there. Counts the instructions the NEON units execute a weight and holds them to bounds. Exit 0 passed,
# 1 failed, 2 not run (said loudly).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
src=$root/edge_runtime/backends/cpu/kernels/src

not_run() {
  echo "arm-check: NOT RUN: $1. The NEON kernels were NOT checked." >&2
  exit 2
}
command -v aarch64-linux-gnu-g++ >/dev/null || not_run "aarch64-linux-gnu-g++ is missing (apt-get install g++-aarch64-linux-gnu)"
command -v qemu-aarch64-static >/dev/null || not_run "qemu-aarch64-static is missing (apt-get install qemu-user-static)"
python=
for candidate in "${PYTHON:-}" "${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}" "$root/.venv/bin/python" python3; do
  if [ -n "$candidate" ] && "$candidate" -c 'import edge_runtime.backends.cpu.kernels' 2>/dev/null; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || not_run "no Python with edge_runtime.backends.cpu.kernels built (set PYTHON=, or pip install -e .)"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" "$here/make_vectors.py" "$work"

# The same options as in CMakeLists.txt.
exact="-std=gnu++17 -O3 -Wall -Wextra -ffp-contract=off -fno-math-errno -fno-trapping-math -I$src -I$root/edge_runtime/base/src"
build() { # source, further options
  aarch64-linux-gnu-g++ $exact ${2:-} -c "$1" -o "$work/$(basename "$1" .cpp).o"
}
dotprod="-march=armv8.2-a+dotprod" i8mm="-march=armv8.2-a+dotprod+i8mm"
build "$src/isa_neon_dotprod.cpp" "$dotprod"
build "$src/isa_neon_i8mm.cpp" "$i8mm"
build "$src/form_base.cpp"
build "$src/encode_base.cpp" "-ffinite-math-only -fno-signed-zeros -Wno-psabi"
for name in isa isa_scalar experts expert_checks expert_layers encoder pool; do build "$src/$name.cpp"; done
build "$root/edge_runtime/base/src/crc32c.cpp"
for name in checksums queue threads uring; do build "$root/edge_runtime/experts/drive/src/$name.cpp"; done
# compiled alone: no program here runs a token's layer, nor decides in one
for name in at_once slot_reads token_layer token_ahead; do build "$root/edge_runtime/experts/src/$name.cpp"; done
for name in cache_prior hobbit mobile; do build "$root/edge_runtime/policy/src/$name.cpp"; done
rm "$work"/{at_once,slot_reads,token_layer,token_ahead,cache_prior,hobbit,mobile}.o
build "$here/check_drive.cpp"
aarch64-linux-gnu-g++ -static "$work"/{checksums,queue,threads,uring,crc32c,check_drive}.o -o "$work/check_drive" -pthread
table=("$root"/edge_runtime/experts/src/{eviction_order,ledger,slot_table}.cpp "$here/check_table.cpp")
aarch64-linux-gnu-g++ $exact -static "${table[@]}" -o "$work/check_table"
${CXX:-g++} $exact "${table[@]}" -o "$work/check_table_here"
policy=$root/edge_runtime/policy/src
router=("$policy"/router.cpp "$policy"/route_base.cpp)
wider=() # units of this machine alone
if [ "$(uname -m)" = x86_64 ]; then
  for unit in avx2:"-mavx2 -mfma" avx512:"-mavx2 -mfma -mavx512f -mavx512bw -mavx512vl -mprefer-vector-width=512"; do
    ${CXX:-g++} $exact ${unit#*:} -c "$policy/route_${unit%%:*}.cpp" -o "$work/route_${unit%%:*}_here.obj"
    wider+=("$work/route_${unit%%:*}_here.obj")
  done
fi
for name in choice route; do
  parts=("${router[@]}" "$here/check_$name.cpp")
  if [ "$name" = choice ]; then parts+=("$policy"/one_token.cpp); fi
  aarch64-linux-gnu-g++ $exact -static "${parts[@]}" -o "$work/check_$name"
  ${CXX:-g++} $exact "${parts[@]}" "${wider[@]}" -o "$work/check_${name}_here"
done
rm "$work"/{checksums,queue,threads,uring,check_drive}.o
trunk=$root/edge_runtime/backends/cpu/trunk/src
dense=("$here/check_dense.cpp" "$trunk"/{attention,dense_scalar,find_dense,latent,layer,matrix,recurrent,trunk,trunk_outlook,trunk_widths}.cpp
  "$src"/{pool,isa,isa_scalar,form_base,encode_base}.cpp)
aarch64-linux-gnu-g++ $exact -I"$trunk" $dotprod -c "$trunk/dense_neon.cpp" -o "$work/dense_neon.arm"
aarch64-linux-gnu-g++ $exact -I"$trunk" $i8mm -c "$trunk/dense_neon_i8mm.cpp" -o "$work/dense_neon_i8mm.arm"
neon=("$work"/{dense_neon,dense_neon_i8mm}.arm "$work"/isa_neon_{dotprod,i8mm}.o)
aarch64-linux-gnu-g++ $exact -I"$trunk" -Wno-psabi -static -x c++ "${dense[@]}" -x none "${neon[@]}" -o "$work/check_dense" -pthread
here_units=()
if [ "$(uname -m)" = x86_64 ]; then
  wide="-mavx2 -mfma -mavx512f -mavx512bw -mavx512vl -mprefer-vector-width=512"
  for unit in "$trunk/dense_avx2" "$src/isa_avx2" "$src/form_avx2" "$src/encode_avx2"; do
    ${CXX:-g++} $exact -I"$trunk" -Wno-psabi -mavx2 -mfma -c "$unit.cpp" -o "$work/$(basename "$unit").obj"
    here_units+=("$work/$(basename "$unit").obj")
  done
  for unit in "$trunk/dense_avx512" "$src/isa_avx512vnni" "$src/form_avx512" "$src/encode_avx512"; do
    ${CXX:-g++} $exact -I"$trunk" -Wno-psabi -w $wide -mavx512vnni -c "$unit.cpp" -o "$work/$(basename "$unit").obj"
    here_units+=("$work/$(basename "$unit").obj")
  done
elif [ "$(uname -m)" = aarch64 ]; then
  here_units=("${neon[@]}")
fi
${CXX:-g++} $exact -I"$trunk" -Wno-psabi -x c++ "${dense[@]}" -x none "${here_units[@]}" -o "$work/check_dense_here" -pthread
build "$here/check_arm.cpp" -O1  # GCC 12 crashes vectorising the comparison loop
aarch64-linux-gnu-g++ -static "$work"/*.o -o "$work/check_arm" -pthread

# Emulation's own processor has i8mm too, Cortex-A76 the dot product alone; Cortex-A72 lacks both and must fall back.
QEMU_CPU=max qemu-aarch64-static "$work/check_arm" neon-i8mm "$work"/case_*.bin || { echo "arm-check: FAILED" >&2; exit 1; }
QEMU_CPU=cortex-a76 qemu-aarch64-static "$work/check_arm" neon-dotprod "$work"/case_*.bin || { echo "arm-check: FAILED" >&2; exit 1; }
QEMU_CPU=cortex-a72 qemu-aarch64-static "$work/check_arm" scalar "$work"/case_*.bin || { echo "arm-check: FAILED" >&2; exit 1; }
qemu-aarch64-static "$work/check_drive" "$work/records" || { echo "arm-check: FAILED" >&2; exit 1; }
for cpu in max cortex-a76; do
  QEMU_CPU=$cpu qemu-aarch64-static "$work/check_dense" > "$work/dense_$cpu" || { cat "$work/dense_$cpu"; echo "arm-check: FAILED: check_dense on $cpu" >&2; exit 1; }
  "$work/check_dense_here" | diff - "$work/dense_$cpu" || { echo "arm-check: FAILED: check_dense on $cpu differs from this machine's" >&2; exit 1; }
done
cat "$work/dense_max"
for history in table choice route; do
  qemu-aarch64-static "$work/check_$history" > "$work/$history" || { echo "arm-check: FAILED: check_$history" >&2; exit 1; }
  "$work/check_${history}_here" | diff - "$work/$history" || { echo "arm-check: FAILED: check_$history differs from this machine's" >&2; exit 1; }
  cat "$work/$history"
done

# Executed instructions a weight and token, everything included (docs/kernels.md): what emulation logs, one line an
# instruction, for three panels of 16 x 2048 less what it logs for one. The bounds are about 5 % above GCC 12's code.
aarch64-linux-gnu-g++ $exact -I"$trunk" -Wno-psabi -static -x c++ "$here/count_instructions.cpp" "$trunk"/{dense_scalar,find_dense}.cpp \
  "$src"/{isa,isa_scalar,form_base,encode_base}.cpp -x none "${neon[@]}" -o "$work/count"
executed() { # instruction set, what, tokens, repetitions
  QEMU_CPU=max qemu-aarch64-static -singlestep -d exec,nochain -D "$work/log" "$work/count" "$@"
  grep -c ^Trace "$work/log" || true
}
# instruction set, tier of experts or bits of the dense part, tokens, bound in instructions a thousand weights and token
while read -r isa what tokens bound; do
  a_thousand=$(( ($(executed "$isa" "$what" "$tokens" 3) - $(executed "$isa" "$what" "$tokens" 1)) * 1000 / (2 * 16 * 2048 * tokens) ))
  echo "arm-check: $isa: $what, $tokens tokens: $a_thousand instructions a thousand weights and token (emulated; bound $bound)"
  if [ "$a_thousand" -le 20 ] || [ "$a_thousand" -gt "$bound" ]; then
    echo "arm-check: FAILED: the panel executes more than its bound, or the count did not work" >&2
    exit 1
  fi
done <<'COUNTS'
neon-dotprod 2 1 460
neon-dotprod 4 1 440
neon-dotprod 8 1 820
neon-dotprod 8 8 400
neon-dotprod d8 4 222
neon-i8mm 2 1 460
neon-i8mm 2 8 224
neon-i8mm 4 1 442
neon-i8mm 4 8 209
neon-i8mm 8 1 765
neon-i8mm 8 8 248
neon-i8mm d8 4 160
neon-i8mm d4 4 200
COUNTS
echo "arm-check: passed"
