// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Takes a CAN interface off its bus as its driver does when the controller's transmit error counter passes 255 (ISO 11898-1, bus-off).
 * QEMU's controllers make no errors of their own. Everything above the driver is the kernel's own: the error frame that applications
 * see, the queue that stops, the timer of "restart-ms" and the restart of the controller.
 *
 *   insmod bus_off.ko interface=can0 && rmmod bus_off
 */
#include <linux/can/dev.h>
#include <linux/can/error.h>
#include <linux/if_arp.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <net/net_namespace.h>

static char *interface = "can0";
module_param(interface, charp, 0400);
MODULE_PARM_DESC(interface, "CAN interface to be taken off its bus");

static int __init bus_off_init(void)
{
	struct net_device *dev;
	struct can_frame *frame;
	struct sk_buff *skb;
	int error = -ENODEV;

	rtnl_lock();
	dev = __dev_get_by_name(&init_net, interface);
	/* Virtual interfaces have no controller, and none of candev's memory. */
	if (!dev || dev->type != ARPHRD_CAN || !netif_running(dev) || !dev->rtnl_link_ops ||
	    strcmp(dev->rtnl_link_ops->kind, "can"))
		goto out;
	error = -ENOMEM;
	skb = alloc_can_err_skb(dev, &frame);
	if (!skb)
		goto out;
	can_change_state(dev, frame, CAN_STATE_BUS_OFF, CAN_STATE_BUS_OFF);
	netif_rx(skb);
	can_bus_off(dev);
	error = 0;
out:
	rtnl_unlock();
	return error;
}

static void __exit bus_off_exit(void)
{
}

module_init(bus_off_init);
module_exit(bus_off_exit);
MODULE_DESCRIPTION("Takes a CAN interface off its bus, for tests");
MODULE_LICENSE("Dual MIT/GPL");
