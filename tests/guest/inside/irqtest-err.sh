# irqtest says that it has failed: the machine stops in the midst of this.
find_device 0x1234:0xd3a1 || fail "no irqtest device: $(lspci -n)"
ask err
guest-program irqtest "$D" err || fail ERR
sleep 60
fail "the machine goes on"
