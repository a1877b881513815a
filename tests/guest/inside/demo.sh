# What ./demo shows.
find_device 0x1234:0x11e8 || fail "no edu device"
edu=$D; edu_at=$B
find_device 0x494f:0x0dc8 || fail "no idio16 device"
modprobe gpio-pci-idio-16 || fail "no driver"
modprobe uio_pci_generic || fail "no uio_pci_generic"
bind "$edu" uio_pci_generic

say
say "In the guest: $(uname -sr), and on its PCI bus"
for at in "$B" "$edu_at"; do
  lspci -nn -k -s "$at" | grep -v -e Subsystem -e 'Kernel modules' | while read -r line; do
    say "  $line"
  done
done

say
say "idio16, whose inputs are wired to its outputs:"
chip=gpiochip0
state() { gpioget -c $chip --as-is --numeric 3 19 | (read -r o i; echo "OUT3=$o IIN3=$i"); }
say "  $(gpiodetect)"
say "  before                     $(state)"
gpioset -t0 -c $chip 3=1 || fail gpioset
say "  after gpioset OUT3=1       $(state)"
[ "$(state)" = "OUT3=1 IIN3=1" ] || fail "the input did not follow"

say
say "edu, driven by a program through sysfs and uio:"
for test in factorial dma intx; do
  line=$(guest-program edu "$edu" $test) || fail "$line"
  say "  $(printf '%-10s' $test) ${line##*: }"
done
say
