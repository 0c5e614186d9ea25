# U-Boot script for boards: slots by BOOT_ORDER and the tries BOOT_A_LEFT and BOOT_B_LEFT (hexadecimal), RAUC's protocol.
# Partitions 2 and 3 of the disk are the slots. The environment must be redundant and outside of them.
# services/domain/slots/src/uboot.rs does the same in Rust; a test of pitstop-boot-env has U-Boot run this script beside it.

# What holds when nothing can be read. U-Boot knows no empty variable, and an order that names no slot is none.
setenv pitstop_order
for slot in ${BOOT_ORDER}; do
  if test "${slot}" = "A" -o "${slot}" = "B"; then
    setenv pitstop_order "${pitstop_order} ${slot}"
  fi
done
if test -z "${pitstop_order}"; then
  setenv BOOT_ORDER "A B"
  setenv pitstop_order "A B"
fi
test -n "${BOOT_A_LEFT}" || setenv BOOT_A_LEFT 3
test -n "${BOOT_B_LEFT}" || setenv BOOT_B_LEFT 3

# The first in order with a try left, which it uses up.
setenv pitstop_slot
setenv pitstop_reason
for slot in ${pitstop_order}; do
  if test -n "${pitstop_slot}"; then
    true
  elif test "${slot}" = "A" -a 0x${BOOT_A_LEFT} -gt 0; then
    setexpr BOOT_A_LEFT ${BOOT_A_LEFT} - 1
    setenv pitstop_slot A
  elif test "${slot}" = "B" -a 0x${BOOT_B_LEFT} -gt 0; then
    setexpr BOOT_B_LEFT ${BOOT_B_LEFT} - 1
    setenv pitstop_slot B
  fi
done

# Nobody vouched for any slot in time: the first starts and goes to the end of the order, so that they take turns. No tries are given
# back, for one that has any looks as if somebody had vouched for it.
if test -z "${pitstop_slot}"; then
  setenv pitstop_reason " (last resort)"
  setenv pitstop_rest
  for slot in ${pitstop_order}; do
    if test -z "${pitstop_slot}"; then
      setenv pitstop_slot "${slot}"
    elif test "${slot}" != "${pitstop_slot}"; then
      setenv pitstop_rest "${slot}"
    fi
  done
  setenv BOOT_ORDER ${pitstop_rest} ${pitstop_slot}
fi

if test "${pitstop_slot}" = "A"; then
  setenv pitstop_part 2
  setenv pitstop_name slot-a
else
  setenv pitstop_part 3
  setenv pitstop_name slot-b
fi

# The board's own word, or the disk this script was found on (distro boot). Worked out at each start: saved, it would outlast a start
# from another disk.
setenv pitstop_disk "${pitstop_dev}"
test -n "${pitstop_disk}" -o -z "${devtype}" || setenv pitstop_disk "${devtype} ${devnum}"
test -n "${pitstop_disk}" || setenv pitstop_disk "mmc 0"

echo "Starting slot ${pitstop_slot}${pitstop_reason}"
# Before the kernel is loaded, so that a slot that hangs has used its try.
saveenv
setenv bootargs "root=PARTLABEL=${pitstop_name} ro rootwait init=/sbin/init panic=10 rauc.slot=${pitstop_slot} ${extra_cmdline}"
# Only what was loaded now: after a reset the memory may still hold the other slot's kernel.
if load ${pitstop_disk}:${pitstop_part} ${kernel_addr_r} boot/vmlinuz; then
  # The slot's device tree where the board names one, else U-Boot's own.
  if test -z "${fdtfile}"; then
    booti ${kernel_addr_r} - ${fdtcontroladdr}
  elif load ${pitstop_disk}:${pitstop_part} ${fdt_addr_r} boot/${fdtfile}; then
    booti ${kernel_addr_r} - ${fdt_addr_r}
  fi
fi
echo "Slot ${pitstop_slot} cannot be started."
reset
