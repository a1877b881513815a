# The DMA test device, with what the kernel's command line says: crossing=TEST:ARGUMENT:...
find_device 0x1234:0xd3a0 || fail "no dmatest device: $(lspci -n)"
lspci -vv -nn -s "$B"
for word in $(cat /proc/cmdline); do
  case $word in crossing=*) plan=${word#crossing=} ;; esac
done
case $plan in
  intx:*)
    modprobe uio_pci_generic || fail "no uio_pci_generic"
    bind "$D" uio_pci_generic ;;
esac
# shellcheck disable=SC2046 # one word per argument
guest-program dmatest "$D" $(echo "$plan" | tr : ' ') || fail "$plan"
