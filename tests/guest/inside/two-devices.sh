# Both devices work at the same time, each with interrupts of its own.
find_device 0x494f:0x0dc8 || fail "no idio16 device: $(lspci -n)"
modprobe gpio-pci-idio-16 || fail "no driver"
[ "$(driver "$D")" = pci-idio-16 ] || fail "the driver of idio16 is not bound"
find_device 0x1234:0x11e8 || fail "no edu device: $(lspci -n)"
lspci -nn -k
modprobe uio_pci_generic || fail "no uio_pci_generic"
bind "$D" uio_pci_generic

guest-program edu "$D" intx > /tmp/edu 2>&1 &
edu=$!
rounds=0
while kill -0 $edu 2> /dev/null; do
  n=$((rounds % 16)); rounds=$((rounds + 1))
  for value in 1 0; do
    gpioset -t0 -c gpiochip0 $n=$value || fail "gpioset"
    [ "$(gpioget -c gpiochip0 --numeric $((n + 16)))" = $value ] || fail "IIN$n is not $value"
  done
done
wait $edu; result=$?
cat /tmp/edu
[ $result = 0 ] || fail edu
echo "$rounds lines toggled meanwhile"
cat /proc/interrupts
