# The test outside plugs and pulls; the port tells the kernel.
no_device 0x1234:0x11e8 || fail "the device is there before it is plugged in"
for time in first second; do
  ask plug
  await 30 find_device 0x1234:0x11e8 || fail "the $time time: no device appears"
  # The folder is there before the kernel has set the device up.
  await 30 test -e "$D/resource0" || fail "the $time time: the device has no BAR"
  lspci -vv -nn -s "$B"
  guest-program edu "$D" clean || fail "the $time time: not clean"
  guest-program edu "$D" factorial || fail "the $time time: factorial"
  guest-program edu "$D" dma || fail "the $time time: DMA"
  [ $time = first ] || break
  ask pull
  await 30 no_device 0x1234:0x11e8 || fail "the device does not go"
done
dmesg | grep pciehp
