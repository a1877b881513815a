# A reset of the device, then one of the machine. The test outside knows which boot this is.
find_device 0x1234:0x11e8 || fail "no edu device: $(lspci -n)"
guest-program edu "$D" clean || fail "not clean at boot"
guest-program edu "$D" dma || fail "DMA at boot"
ask boot
[ "$ANSWER" = first ] || finish 0

guest-program edu "$D" dirty || fail dirty
echo "ways to reset: $(cat "$D/reset_method")"
echo 1 > "$D/reset" || fail "the kernel cannot reset the device"
guest-program edu "$D" clean || fail "not clean after a reset of the device"
guest-program edu "$D" factorial || fail "factorial after a reset"
guest-program edu "$D" dma || fail "DMA after a reset"

guest-program edu "$D" dirty || fail dirty
reboot -f
sleep 60
