# edu by physical address and INTx, through sysfs and uio_pci_generic.
find_device 0x1234:0x11e8 || fail "no edu device: $(lspci -n)"
lspci -vv -nn -s "$B"

guest-program edu "$D" factorial || fail factorial
guest-program edu "$D" dma || fail DMA

modprobe uio_pci_generic || fail "no uio_pci_generic"
bind "$D" uio_pci_generic
guest-program edu "$D" intx || fail INTx
grep -i uio /proc/interrupts
