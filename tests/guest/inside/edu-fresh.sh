# A device that must be as new, whoever used it before; and that is left used.
find_device 0x1234:0x11e8 || fail "no edu device: $(lspci -n)"
guest-program edu "$D" clean || fail "something is left of the last guest"
guest-program edu "$D" factorial || fail factorial
guest-program edu "$D" dma || fail DMA
guest-program edu "$D" dirty || fail dirty
