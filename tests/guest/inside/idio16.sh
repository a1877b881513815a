# The driver of the kernel: 16 outputs, and 16 inputs that are wired to them, OUTn to IINn.
find_device 0x494f:0x0dc8 || fail "no idio16 device: $(lspci -n)"
modprobe gpio-pci-idio-16 || fail "no driver"
lspci -vv -nn -k -s "$B"
[ "$(driver "$D")" = pci-idio-16 ] || fail "the driver is not bound, but '$(driver "$D")'"
lspci -k -s "$B" | grep -q 'Kernel driver in use: pci-idio-16' || fail "lspci shows no driver"
gpiodetect
gpioinfo -c gpiochip0

out() { gpioset -t0 -c gpiochip0 "$@" || fail "gpioset $*"; }
input() { gpioget -c gpiochip0 --numeric "$@" || fail "gpioget $*"; }
all_inputs() { input $(seq 16 31); }

# Each line by itself.
for n in $(seq 0 15); do
  line=$((n + 16))
  out "$n=1"; [ "$(input $line)" = 1 ] || fail "OUT$n is 1, IIN$n is not"
  ones=$(all_inputs | tr ' ' '\n' | grep -c 1)
  [ "$ones" = 1 ] || fail "OUT$n alone is 1, and $ones inputs are: $(all_inputs)"
  out "$n=0"; [ "$(input $line)" = 0 ] || fail "OUT$n is 0, IIN$n is not"
done
# Many at once, in both halves of the card.
out 0=1 2=1 7=1 8=1 13=1 15=1
[ "$(all_inputs)" = "1 0 1 0 0 0 0 1 1 0 0 0 0 1 0 1" ] || fail "pattern read as $(all_inputs)"
out 0=0 2=0 7=0 8=0 13=0 15=0

# Change of state interrupts: a watcher of one input, and its output toggled.
# watch LINE: starts a watcher for one event, and returns when it watches.
watch() {
  : > /tmp/events # the last watcher's banner is none of ours
  gpiomon -c gpiochip0 --num-events=1 --edges=both --idle-timeout=20s --banner \
    --format='line %o edge %e' "$1" > /tmp/events 2>&1 &
  await 20 grep -q Monitoring /tmp/events || fail "gpiomon does not start: $(cat /tmp/events)"
}
# The card tells that some input changed, not which, so the driver hands each interrupt to all 16
# inputs; and the one of Linux 6.12 crashes if one of them was never asked for (it takes "no
# interrupt" for interrupt 0). So ask for all of them once.
gpiomon -c gpiochip0 --edges=both --idle-timeout=1ms $(seq 16 31)
for n in 3 12; do
  line=$((n + 16))
  watch $line; out "$n=1"; wait $!
  grep -q "line $line edge 1" /tmp/events || fail "no rising edge: $(cat /tmp/events)"
  watch $line; out "$n=0"; wait $!
  grep -q "line $line edge 2" /tmp/events || fail "no falling edge: $(cat /tmp/events)"
done
grep "$B" /proc/interrupts
