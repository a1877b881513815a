# The vectors of irqtest, through the guest's own VFIO behind an IOMMU.
find_device 0x1234:0xd3a1 || fail "no irqtest device: $(lspci -n)"
lspci -vv -nn -s "$B"
modprobe vfio_iommu_type1 || fail "no vfio_iommu_type1"
modprobe vfio-pci || fail "no vfio-pci"
bind "$D" vfio-pci
guest-program irqtest "$D" msix || fail MSI-X
