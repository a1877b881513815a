# Resets of the function by the kernel, each in its way: the device forgets, and works again.
find_device 0x1234:0xd3a0 || fail "no dmatest device: $(lspci -n)"
copies() { guest-program dmatest "$D" basic on-thread 4096 "$1" || fail "$2"; }
count() { guest-program dmatest "$D" count "$1" || fail "$2"; }

ways=$(cat "$D/reset_method")
echo "ways to reset: $ways"
# Not by bus: QEMU's port never says that its link is active, so Linux takes such a reset of a PCI
# Express device for failed. The device of guest-reset, which is none, is reset so.
for way in flr pm; do
  case " $ways " in *" $way "*) ;; *) fail "no reset by $way, only: $ways" ;; esac
  echo "$way" > "$D/reset_method" || fail "the kernel does not take $way"
  copies 20 "copies before a reset by $way"
  count 20 "a count before a reset by $way"
  before=$(lspci -n -xxx -s "$B")
  echo 1 > "$D/reset" || fail "no reset by $way"
  count 0 "something is left after a reset by $way"
  # What the device lost of its configuration space, the kernel has written again.
  [ "$(lspci -n -xxx -s "$B")" = "$before" ] || fail "another configuration space after $way"
  copies 7 "copies after a reset by $way"
  count 7 "a count after a reset by $way"
  echo 1 > "$D/reset" || fail "no second reset by $way"
done

# In the midst of the hammer.
guest-program dmatest "$D" hammer on-thread 4096 100 1 1 > /tmp/hammer 2>&1 &
hammer=$!
await 30 grep -q hammering /tmp/hammer || fail "no hammer: $(cat /tmp/hammer)"
echo flr > "$D/reset_method"
echo 1 > "$D/reset" || fail "no reset in the midst of the hammer"
kill $hammer; wait $hammer
cat /tmp/hammer
copies 20 "copies after a reset in the midst of the hammer"

# To sleep and awake again by hand. That resets the function behind the kernel's back.
pm=$(lspci -vv -s "$B" | sed -n 's/.*\[\(..\)\] Power Management.*/\1/p')
address=$(setpci -s "$B" BASE_ADDRESS_0)
count 20 "a count before it sleeps"
setpci -s "$B" "$pm+4.w=3:3"
lspci -vv -s "$B" | grep -q 'Status: D3' || fail "it does not sleep: $(lspci -vv -s "$B")"
setpci -s "$B" "$pm+4.w=0:3"
setpci -s "$B" "BASE_ADDRESS_0=$address" COMMAND=6
count 0 "something is left after it slept"
copies 20 "copies after it slept"
