# edu by IOVA and MSI, through the guest's own VFIO behind an IOMMU.
find_device 0x1234:0x11e8 || fail "no edu device: $(lspci -n)"
lspci -vv -nn -s "$B"
[ -e "$D/iommu_group" ] || fail "the device is in no IOMMU group"

modprobe vfio_iommu_type1 || fail "no vfio_iommu_type1"
modprobe vfio-pci || fail "no vfio-pci"
bind "$D" vfio-pci
guest-program edu "$D" msi || fail MSI
