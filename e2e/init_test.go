// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/cli/local/network"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/kubernetes/bundle"
	"github.com/constellation-os/constellation/kubernetes/kubeclient"
	"github.com/constellation-os/constellation/measurements"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
	"github.com/constellation-os/constellation/services/provider"
	"github.com/constellation-os/constellation/services/provider/qemu"
)

// Where things are on the network of these tests.
const (
	nodeName     = "control-plane-0"
	nodeAddress  = "10.77.0.10"
	apiPort      = 6443
	metadataPort = 80
	bundlePort   = 5000
	initDeadline = 30 * time.Minute
)

// founder is the owner of a machine that is to become a cluster's first node, with
// all that the machine's surroundings are.
type founder struct {
	network   *network.Network
	authority string
	stateDir  string
	secret    []byte
	request   *api.InitRequest
	ring      *keys.Keyring
}

func newFounder(t *testing.T) *founder {
	t.Helper()
	dir := os.Getenv(bundleEnv)
	if dir == "" {
		t.Fatalf("%s is not set: //e2e:init_test has a bundle", bundleEnv)
	}
	b, err := bundle.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	address := netip.MustParseAddr(nodeAddress)
	n, err := network.New(network.Options{Hosts: []network.Host{{Name: nodeName, MAC: machine.DefaultMACAddress, Address: address}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	f := &founder{network: n, authority: t.TempDir(), stateDir: t.TempDir(), secret: make([]byte, 32), ring: keys.Generate()}
	rand.Read(f.secret)
	master, err := f.ring.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	f.request = &api.InitRequest{
		InitSecret: f.secret, Keys: &api.InitRequest_MasterSecret{MasterSecret: master},
		NodeName: nodeName, ComponentSet: b.Set().Encode(), Sources: []string{fmt.Sprintf("http://%s:%d", network.Gateway, bundlePort)},
		Endpoint: fmt.Sprintf("%s:%d", nodeAddress, apiPort), PodNetwork: "10.244.0.0/16", ServiceNetwork: "10.96.0.0/12", ClusterName: "e2e",
	}
	f.serve(t, bundlePort, b.Handler())
	hash := sha256.Sum256(f.secret)
	document := &qemu.Document{Self: provider.Self{Name: nodeName, Role: provider.ControlPlane, InitSecretHash: &hash}, Endpoint: f.request.Endpoint}
	metadata, err := document.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	f.serve(t, metadataPort, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != qemu.Path {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(metadata)
	}))
	return f
}

// serve has a handler answer at a port of the network's gateway.
func (f *founder) serve(t *testing.T, port uint16, h http.Handler) {
	t.Helper()
	l, err := f.network.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
}

// boot starts the machine, or starts it again.
func (f *founder) boot(t *testing.T) *machine.Machine {
	t.Helper()
	c := config(t)
	c.StateDir = f.stateDir
	return bootOn(t, f.network, f.authority, c)
}

// init verifies the machine, which is nobody's or this cluster's, and sends the Init.
func (f *founder) init(t *testing.T, owned bool) (*api.Result, error) {
	t.Helper()
	return f.initWatched(t, owned, func(*api.Progress) {})
}

// initWatched is init, and tells of progress.
func (f *founder) initWatched(t *testing.T, owned bool, watch func(*api.Progress)) (*api.Result, error) {
	t.Helper()
	prediction := reference(t)
	if owned {
		id, err := f.ring.ClusterID()
		if err != nil {
			t.Fatal(err)
		}
		prediction = prediction.Initialized(id[:])
	}
	ctx, cancel := context.WithTimeout(t.Context(), initDeadline)
	defer cancel()
	conn := f.connect(t, prediction)
	defer conn.Close()
	stream, err := api.NewBootstrapperClient(conn).Init(ctx, f.request, grpc.WaitForReady(true))
	if err != nil {
		return nil, err
	}
	start := time.Now()
	for {
		response, err := stream.Recv()
		if err != nil {
			if p := bootstrapper.ProblemOf(err); p != nil {
				t.Logf("%v at step %q: %s\n%s", p.Reason, steps.Name(p.Step), p.Advice, p.Journal)
			}
			return nil, err
		}
		if p := response.GetProgress(); p != nil && (p.State != api.Progress_STATE_UPDATE || p.Total == 0 || p.Done == p.Total) {
			t.Logf("%6.1f s %-18s %-8s %s", time.Since(start).Seconds(), steps.Name(p.Step), p.State.String()[len("STATE_"):], p.Detail)
		}
		if p := response.GetProgress(); p != nil {
			watch(p)
		}
		if r := response.GetResult(); r != nil {
			return r, nil
		}
	}
}

func (f *founder) connect(t *testing.T, p *measurements.Prediction) *grpc.ClientConn {
	t.Helper()
	o := newOwner(t, f.network, p, f.authority)
	channel, err := atls.ClientVerify([]attestation.Verifier{o.verifier}, atls.Options{Observe: func(o atls.Outcome) {
		if o.Err != nil {
			t.Logf("the machine was refused: %v", o.Err)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///node", grpc.WithTransportCredentials(channel),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return f.network.Dial(ctx, netip.AddrPortFrom(netip.MustParseAddr(nodeAddress), bootstrapper.Port))
		}))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// cluster makes a client of the new cluster's API.
func (f *founder) cluster(t *testing.T, kubeconfig []byte) *rest.RESTClient {
	t.Helper()
	c, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	c.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return f.network.Dial(ctx, netip.AddrPortFrom(netip.MustParseAddr(nodeAddress), apiPort))
	}
	c.Timeout = time.Minute
	client, err := kubeclient.New(c, corev1.SchemeGroupVersion, corev1.AddToScheme)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// TestInit: a machine that has booted becomes a cluster's first node, and is that again
// after a reboot.
func TestInit(t *testing.T) {
	f := newFounder(t)
	m := f.boot(t)
	result, err := f.init(t, false)
	if err != nil {
		t.Fatal(err)
	}
	f.lookAround(t, result)

	t.Run("again", func(t *testing.T) {
		if _, err := f.init(t, true); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("after a power cut", func(t *testing.T) {
		m.Stop()
		f.boot(t)
		result, err := f.init(t, false)
		if err != nil {
			t.Fatal(err)
		}
		f.lookAround(t, result)
	})
}

// TestInitPowerCuts cuts the machine's power at the beginning of every step, one after
// the other: the Init after the last one finishes the job. (V20)
func TestInitPowerCuts(t *testing.T) {
	if !*campaign {
		t.Skip("a boot for each step: run it with -campaign")
	}
	f := newFounder(t)
	for step := api.Step_STEP_LOCK; step <= api.Step_STEP_NODE; step++ {
		m, cut := f.boot(t), false
		_, err := f.initWatched(t, false, func(p *api.Progress) {
			if p.Step == step && p.State == api.Progress_STATE_STARTED {
				cut = true
				m.Stop()
			}
		})
		if err == nil || !cut {
			t.Fatalf("the power was not cut at step %q: %v", steps.Name(step), err)
		}
	}
	f.boot(t)
	result, err := f.init(t, false)
	if err != nil {
		t.Fatal(err)
	}
	f.lookAround(t, result)
}

// lookAround wants every node ready and every pod running.
func (f *founder) lookAround(t *testing.T, result *api.Result) {
	t.Helper()
	c := f.cluster(t, result.Kubeconfig)
	var nodes corev1.NodeList
	if err := c.Get().Resource("nodes").Do(t.Context()).Into(&nodes); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.Items {
		for _, condition := range n.Status.Conditions {
			if condition.Type == "Ready" {
				t.Logf("node %s: ready %s, %s, kubelet %s", n.Name, condition.Status, n.Status.NodeInfo.OSImage, n.Status.NodeInfo.KubeletVersion)
			}
			if condition.Type == "Ready" && condition.Status != "True" {
				t.Errorf("node %s is not ready: %s", n.Name, condition.Message)
			}
		}
	}
	var pods corev1.PodList
	if err := c.Get().Resource("pods").Do(t.Context()).Into(&pods); err != nil {
		t.Fatal(err)
	}
	if len(nodes.Items) != 1 || len(pods.Items) < 7 {
		t.Errorf("%d nodes and %d pods", len(nodes.Items), len(pods.Items))
	}
	for _, p := range pods.Items {
		restarts, ready := 0, true
		for _, s := range p.Status.ContainerStatuses {
			restarts += int(s.RestartCount)
			ready = ready && s.Ready
		}
		t.Logf("pod %s/%s: %s, ready %v, %d restarts", p.Namespace, p.Name, p.Status.Phase, ready, restarts)
		if p.Status.Phase != "Running" || !ready {
			t.Errorf("pod %s/%s is %s", p.Namespace, p.Name, p.Status.Phase)
		}
	}
}
