# The device goes in the midst of the hammer, and comes back.
find_device 0x1234:0xd3a0 || fail "no dmatest device: $(lspci -n)"
guest-program dmatest "$D" hammer on-thread 4096 100 1 1 > /tmp/hammer 2>&1 &
hammer=$!
await 30 grep -q hammering /tmp/hammer || fail "no hammer: $(cat /tmp/hammer)"
ask pull
await 30 no_device 0x1234:0xd3a0 || fail "the device does not go"
# Its registers are no longer mapped, which the hammer may have noticed already.
kill $hammer; wait $hammer
cat /tmp/hammer
ask plug
await 30 find_device 0x1234:0xd3a0 || fail "no device appears"
# The folder is there before the kernel has set the device up.
await 30 test -e "$D/resource0" || fail "the device has no BAR"
guest-program dmatest "$D" basic on-thread 4096 20 || fail "copies after it came back"
guest-program dmatest "$D" hammer in-write 64 1 1 1 || fail "the hammer after it came back"
