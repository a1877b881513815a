# What lspci says of each device: here, and of its configuration space as `vfu probe --lspci` gives it.
for dump in /*.dump; do
  name=${dump#/}; name=${name%.dump}
  ids=$(lspci -n -F "$dump" | cut -d' ' -f3)
  find_device "0x${ids%:*}:0x${ids#*:}" || fail "no $name: $(lspci -n)"
  lspci -n -vvv -F "$dump" | show "$name.probe"
  lspci -n -vvv -s "$B" | show "$name.guest"
done
