# Resets in the midst of the hammer: of the device, then of the machine. The test outside knows which
# boot this is.
find_device 0x1234:0xd3a0 || fail "no dmatest device: $(lspci -n)"
basic() { guest-program dmatest "$D" basic on-thread 4096 20 || fail "$1"; }
hammer() {
  guest-program dmatest "$D" hammer on-thread 4096 100 1 1 > /tmp/hammer 2>&1 &
  hammer=$!
  await 30 grep -q hammering /tmp/hammer || fail "no hammer: $(cat /tmp/hammer)"
}
basic "copies at boot"
ask boot
if [ "$ANSWER" = first ]; then
  hammer
  echo "ways to reset: $(cat "$D/reset_method")"
  echo 1 > "$D/reset" || fail "the kernel cannot reset the device"
  # It has seen registers go away, or waits for a copy that the reset forgot.
  kill $hammer; wait $hammer
  cat /tmp/hammer
  basic "copies after a reset of the device"
  hammer
  ask reset
  sleep 60
fi
