# The DMA test device: more posted writes than QEMU sends one by one.
find_device 0x1234:0xd3a0 || fail "no dmatest device: $(lspci -n)"
guest-program dmatest "$D" pile-up 8000 || fail pile-up
guest-program dmatest "$D" flood 8000 || fail "the flood afterwards"
