# The BAR test device: a BAR of 8 GiB, mapped memory, doorbells.
find_device 0x1234:0xba48 || fail "no bartest device: $(lspci -n)"
lspci -vv -nn -s "$B"
guest-program bartest "$D" bar || fail "the BAR of 8 GiB"
guest-program bartest "$D" doorbells 200 || fail doorbells
guest-program bartest "$D" ring-alone || fail "doorbells without a message"
guest-program bartest "$D" doorbells 20 || fail "doorbells afterwards"
