# U-Boot script for boards: slots by BOOT_ORDER and the tries BOOT_A_LEFT and BOOT_B_LEFT (hexadecimal), RAUC's protocol.
# Partitions 2 and 3 of the disk are the slots. The environment must be redundant and outside of them.
test -n "${BOOT_ORDER}" || setenv BOOT_ORDER "A B"
test -n "${BOOT_A_LEFT}" || setenv BOOT_A_LEFT 3
test -n "${BOOT_B_LEFT}" || setenv BOOT_B_LEFT 3
# The disk this script was found on, where U-Boot says so (distro boot).
test -n "${pitstop_dev}" -o -z "${devtype}" || setenv pitstop_dev "${devtype} ${devnum}"
test -n "${pitstop_dev}" || setenv pitstop_dev "mmc 0"

setenv pitstop_slot
for slot in ${BOOT_ORDER}; do
  if test -n "${pitstop_slot}"; then
    true
  elif test "${slot}" = "A" -a 0x${BOOT_A_LEFT} -gt 0; then
    setexpr BOOT_A_LEFT ${BOOT_A_LEFT} - 1
    setenv pitstop_slot A
    setenv pitstop_part 2
    setenv pitstop_name slot-a
  elif test "${slot}" = "B" -a 0x${BOOT_B_LEFT} -gt 0; then
    setexpr BOOT_B_LEFT ${BOOT_B_LEFT} - 1
    setenv pitstop_slot B
    setenv pitstop_part 3
    setenv pitstop_name slot-b
  fi
done

if test -z "${pitstop_slot}"; then
  # Nobody vouched for any slot in time: give the tries back and begin again.
  setenv BOOT_A_LEFT 3
  setenv BOOT_B_LEFT 3
  saveenv
  reset
fi

echo "Starting slot ${pitstop_slot}"
# Before the kernel is loaded, so that a slot that hangs has used its try.
saveenv
setenv bootargs "root=PARTLABEL=${pitstop_name} ro rootwait init=/sbin/init panic=10 rauc.slot=${pitstop_slot} ${extra_cmdline}"
load ${pitstop_dev}:${pitstop_part} ${kernel_addr_r} boot/vmlinuz
# The slot's device tree where the board names one, else U-Boot's own.
if test -n "${fdtfile}"; then
  load ${pitstop_dev}:${pitstop_part} ${fdt_addr_r} boot/${fdtfile}
  booti ${kernel_addr_r} - ${fdt_addr_r}
else
  booti ${kernel_addr_r} - ${fdtcontroladdr}
fi
reset
