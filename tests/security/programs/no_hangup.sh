# claim: nohup and a new session keep nothing alive beyond the sandbox
# row: leftovers
# matrix: A
# control: safe
nohup setsid sleep 300 >/dev/null 2>&1 </dev/null &
(trap '' HUP TERM INT; sleep 301) >/dev/null 2>&1 </dev/null &
exit 0
