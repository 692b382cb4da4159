// SPDX-License-Identifier: Apache-2.0

// Flannel connects the pods of all nodes: flannel with its WireGuard backend, its
// records in the Kubernetes API and its nftables rules, and nothing else of it.
//
// It takes the place of flannel's own main package, with the same steps in the same
// order, and ends with what is else an init container's and a CNI plugin's part: it
// tells the node's container runtime how to connect pods, once the network is there.
// Pods hang on a bridge of the node; what leaves the node goes through WireGuard.
//
// The node's name comes from the environment, as NODE_NAME. The WireGuard key is made
// on the node and kept at /run/flannel/wgkey, in memory.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/wireguard"
	"github.com/flannel-io/flannel/pkg/ipmatch"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/flannel-io/flannel/pkg/subnet/kube"
	"github.com/flannel-io/flannel/pkg/trafficmngr/nftables"
	"k8s.io/klog/v2"

	"github.com/constellation-os/constellation/kubernetes/components/flannel/guard"
)

// annotationPrefix is what flannel's annotations of nodes begin with.
const annotationPrefix = "flannel.alpha.coreos.com"

// Interfaces of pods: that of flannel's WireGuard backend, and the bridge.
const (
	wireguardName = "flannel-wg"
	bridgeName    = "cni0"
)

// leaseLost is what CompleteLease says when another took the node's lease.
const leaseLost = "interrupted"

type options struct {
	netConf, subnetFile, cniConf, iface, kubeconfig, services string
}

func main() {
	var o options
	klog.InitFlags(nil)
	flag.StringVar(&o.netConf, "net-conf", "/etc/kube-flannel/net-conf.json", "flannel's network configuration")
	flag.StringVar(&o.subnetFile, "subnet-file", "/run/flannel/subnet.env", "file to write the node's subnet to")
	flag.StringVar(&o.cniConf, "cni-conf", "/etc/cni/net.d/10-constellation.conflist", "file to write the container runtime's configuration to")
	flag.StringVar(&o.iface, "iface", "", "name or address of the interface between nodes (default: that of the default route)")
	flag.StringVar(&o.kubeconfig, "kubeconfig-file", "", "kubeconfig file (default: the pod's service account)")
	flag.StringVar(&o.services, "services", "", "network of services, which nobody outside may ask for")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil && !errors.Is(err, context.Canceled) {
		klog.ErrorS(err, "flannel cannot go on")
		klog.Flush()
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	ctx, cancel := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()

	manager, err := kube.NewSubnetManager(ctx, "", o.kubeconfig, annotationPrefix, o.netConf, true)
	if err != nil {
		return fmt.Errorf("reach the Kubernetes API: %w", err)
	}
	config, err := manager.GetNetworkConfig(ctx)
	if err != nil {
		return fmt.Errorf("read the network's configuration: %w", err)
	}
	if !config.EnableNFTables {
		return fmt.Errorf("%s: want EnableNFTables: there is no iptables here", o.netConf)
	}
	// First of all, and for good: what pods say goes through WireGuard or nowhere.
	if err := protect(ctx, config, o.services); err != nil {
		return fmt.Errorf("keep pods' traffic off the wire: %w", err)
	}
	network, err := register(ctx, &background, manager, config, o.iface)
	if err != nil {
		return err
	}
	if err := setRules(ctx, config, network); err != nil {
		return err
	}
	if err := manager.HandleSubnetFile(o.subnetFile, config, true, network.Lease().Subnet, network.Lease().IPv6Subnet, network.MTU()); err != nil {
		return fmt.Errorf("write %s: %w", o.subnetFile, err)
	}
	background.Go(func() { network.Run(ctx) })
	if err := writeCNI(o.cniConf, config, network); err != nil {
		return fmt.Errorf("write the container runtime's configuration: %w", err)
	}
	klog.InfoS("pods can be connected", "subnet", network.Lease().Subnet.String(), "mtu", network.MTU())

	err = manager.CompleteLease(ctx, network.Lease(), &background)
	if err != nil && err.Error() == leaseLost {
		return errors.New("another node has this node's subnet")
	}
	if err != nil {
		klog.ErrorS(err, "the node's status could not be set")
	}
	<-ctx.Done()
	return ctx.Err()
}

// protect sets the guard.
func protect(ctx context.Context, config *subnet.Config, services string) error {
	pods, err := netip.ParsePrefix(config.Network.String())
	if err != nil {
		return err
	}
	s, err := netip.ParsePrefix(services)
	if err != nil {
		return fmt.Errorf("-services: %w", err)
	}
	return guard.Set(ctx, pods, s, bridgeName, wireguardName)
}

// register brings up the node's WireGuard interface and makes it known to the other nodes.
func register(ctx context.Context, background *sync.WaitGroup, manager subnet.Manager, config *subnet.Config, iface string) (backend.Network, error) {
	stack, err := ipmatch.GetIPFamily(config.EnableIPv4, config.EnableIPv6)
	if err != nil {
		return nil, err
	}
	// Another address for the others to reach this node at, in an annotation of the node.
	var public ipmatch.PublicIPOpts
	public.PublicIP, public.PublicIPv6 = manager.GetStoredPublicIP(ctx)
	external, err := ipmatch.LookupExtIface(iface, "", "", stack, public)
	if err != nil {
		return nil, fmt.Errorf("find the interface between nodes: %w", err)
	}
	b, err := backend.NewManager(ctx, manager, external).GetBackend(config.BackendType)
	if err != nil {
		return nil, fmt.Errorf("backend %q: %w", config.BackendType, err)
	}
	network, err := b.RegisterNetwork(ctx, background, config)
	if err != nil {
		return nil, fmt.Errorf("register the node's network: %w", err)
	}
	return network, nil
}

// resync is a period of flannel's iptables rules, which nftables rules do not have.
const resync = 5

// setRules has the node forward what pods send, and answer for them outside of the cluster.
func setRules(ctx context.Context, config *subnet.Config, network backend.Network) error {
	rules := &nftables.NFTablesManager{}
	if err := rules.Init(ctx); err != nil {
		return err
	}
	lease := network.Lease()
	err := rules.SetupAndEnsureMasqRules(ctx, config.Network, lease.Subnet, config.Network,
		config.IPv6Network, lease.IPv6Subnet, config.IPv6Network, lease, resync, false)
	if err != nil {
		return err
	}
	rules.SetupAndEnsureForwardRules(ctx, config.Network, config.IPv6Network, resync)
	return nil
}
