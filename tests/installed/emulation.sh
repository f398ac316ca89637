# Sourced by checks that run programs for arm64 on another machine: makes this kernel start them in qemu.
# emulate FOLDER     FOLDER takes a mount. Returns 1 with the reason in $lacks where it cannot be done here.
# stop_emulating     undoes it
# shellcheck shell=bash
emulation_mount=
emulation_registered=

emulate() {
  lacks="this machine is an arm64, and no other one is emulated"
  if [ "$(uname -m)" = aarch64 ]; then return 1; fi
  lacks="qemu-aarch64-static is missing (apt-get install qemu-user-static)"
  command -v qemu-aarch64-static >/dev/null || return 1
  mkdir "$1"
  lacks="no binfmt_misc in this kernel"
  mount -t binfmt_misc binfmt_misc "$1" || return 1
  emulation_mount=$1
  if ! grep -qsx enabled "$1/qemu-aarch64"; then
    # F: the interpreter is opened now, so that it need not exist inside a root
    local magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    local mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    printf '%s' ":qemu-aarch64:M::$magic:$mask:$(command -v qemu-aarch64-static):F" >"$1/register"
    emulation_registered=$1/qemu-aarch64
  fi
  # read by whoever sourced this
  # shellcheck disable=SC2034
  lacks=
}

stop_emulating() {
  if [ -n "$emulation_registered" ]; then echo -1 >"$emulation_registered"; fi
  if [ -n "$emulation_mount" ]; then umount "$emulation_mount"; fi
  emulation_registered='' emulation_mount=''
}
