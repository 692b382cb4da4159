// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/cli/cluster"
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

	nodeMemoryMiB = 3072 // as in local clusters
)

// founder is the owner of a machine that is to become a cluster's first node, with
// all that the machine's surroundings are.
type founder struct {
	network   *network.Network
	authority string
	stateDir  string
	disk      string // the state disk's file
	// prediction of the image on this machine; see expected.
	prediction *measurements.Prediction
	secret     []byte
	master     []byte // content of the master-secret file
	request    *api.InitRequest
	ring       *keys.Keyring
	images     map[string]string
	bundle     *source
	policy     []byte // the cluster's, by which the machine was verified last
	server     string // HOST:PORT of this computer at which the API server is
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
	f.disk = filepath.Join(f.stateDir, "disk.raw")
	if err := machine.CreateStateDisk(f.disk, machine.StateDiskSize); err != nil {
		t.Fatal(err)
	}
	if f.master, err = f.ring.Marshal(); err != nil {
		t.Fatal(err)
	}
	forward, err := n.Forward(0, network.To(netip.AddrPortFrom(address, apiPort)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(forward.Close)
	f.images, f.server = b.Set().References(), fmt.Sprintf("127.0.0.1:%d", forward.Port())
	f.request = &api.InitRequest{
		InitSecret: f.secret, Keys: &api.InitRequest_MasterSecret{MasterSecret: f.master}, ApiServerNames: []string{"127.0.0.1"},
		NodeName: nodeName, ComponentSet: b.Set().Encode(), Sources: []string{fmt.Sprintf("http://%s:%d", network.Gateway, bundlePort)},
		Endpoint: fmt.Sprintf("%s:%d", nodeAddress, apiPort), PodNetwork: "10.244.0.0/16", ServiceNetwork: "10.96.0.0/12", ClusterName: "e2e",
		Schedulable: true,
	}
	f.bundle = &source{good: b.Handler()}
	f.serve(t, bundlePort, f.bundle)
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
	c := f.config(t)
	c.StateDir, c.StateDisk = f.stateDir, f.disk
	return bootOn(t, f.network, f.authority, c)
}

func (f *founder) config(t *testing.T) machine.Config {
	t.Helper()
	c := config(t)
	c.Shape.MemoryMiB = nodeMemoryMiB
	return c
}

// init verifies the machine, which is nobody's or this cluster's, and sends the Init.
func (f *founder) init(t *testing.T, owned bool) (*api.Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), initDeadline)
	defer cancel()
	conn := f.connect(t, f.expected(t, owned))
	defer conn.Close()
	return f.send(ctx, t, conn, f.request, func(*api.Progress) {})
}

// expected is what the machine must have measured: nobody's, or this cluster's.
func (f *founder) expected(t *testing.T, owned bool) *measurements.Prediction {
	t.Helper()
	if f.prediction == nil {
		c := f.config(t)
		files, err := machine.ReadFirmwareConfig(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		f.prediction = predicted(t, c, files)
	}
	if !owned {
		return f.prediction
	}
	id, err := f.ring.ClusterID()
	if err != nil {
		t.Fatal(err)
	}
	return f.prediction.Initialized(id[:])
}

// send sends an Init and reads what comes.
func (f *founder) send(ctx context.Context, t *testing.T, conn *grpc.ClientConn, request *api.InitRequest, watch func(*api.Progress)) (*api.Result, error) {
	t.Helper()
	if request.Policy == nil {
		request = proto.CloneOf(request)
		request.Policy = f.policy
	}
	stream, err := api.NewBootstrapperClient(conn).Init(ctx, request, grpc.WaitForReady(true))
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
	return f.connectBy(t, p, f.dial, func(err error) {
		if err != nil {
			t.Logf("the machine was refused: %v", err)
		}
	})
}

// dial reaches the machine's bootstrapper.
func (f *founder) dial(ctx context.Context, _ string) (net.Conn, error) {
	return f.network.Dial(ctx, netip.AddrPortFrom(netip.MustParseAddr(nodeAddress), bootstrapper.Port))
}

// connectBy makes the attested channel on the connections that dial makes, and tells how
// each handshake ended.
func (f *founder) connectBy(t *testing.T, p *measurements.Prediction, dial func(context.Context, string) (net.Conn, error), ended func(error)) *grpc.ClientConn {
	t.Helper()
	o := newOwner(t, f.network, p, f.authority)
	f.policy = o.policy
	channel, err := atls.ClientVerify([]attestation.Verifier{o.verifier}, atls.Options{Observe: func(o atls.Outcome) { ended(o.Err) }})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///node", grpc.WithTransportCredentials(channel), grpc.WithContextDialer(dial))
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

// kubectl makes the administrator's, of the new cluster.
func (f *founder) kubectl(t *testing.T, kubeconfig []byte) *kubectl {
	t.Helper()
	if err := resolve(kubectlEnv); err != nil {
		t.Fatal(err)
	}
	credentials, err := cluster.ParseKubeconfig(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	k := &kubectl{kubeconfig: filepath.Join(t.TempDir(), "kubeconfig"), home: t.TempDir()}
	if err := credentials.WriteKubeconfig(k.kubeconfig, "e2e", f.server); err != nil {
		t.Fatal(err)
	}
	return k
}

// TestInit: a machine that has booted becomes a cluster's first node, does what a
// cluster is for, and is all that again after a power cut.
func TestInit(t *testing.T) {
	f := newFounder(t)
	m := f.boot(t)
	result, err := f.init(t, false)
	if err != nil {
		t.Fatal(err)
	}
	f.lookAround(t, result)
	s := newSmoke(f.kubectl(t, result.Kubeconfig), f.images)
	if t.Run("smoke", func(t *testing.T) {
		s.deploy(t)
		s.check(t)
	}); t.Failed() {
		t.FailNow()
	}
	t.Run("again", func(t *testing.T) {
		if _, err := f.init(t, true); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("after a power cut", func(t *testing.T) {
		m.Stop()
		m = f.boot(t)
		result, err := f.init(t, false)
		if err != nil {
			t.Fatal(err)
		}
		f.lookAround(t, result)
		s.await(t)
		s.check(t)
	})
	t.Run("the disk without its key", func(t *testing.T) {
		m.Stop()
		var file struct{ Secrets []struct{ Secret []byte } }
		if err := json.Unmarshal(f.master, &file); err != nil || len(file.Secrets) != 1 {
			t.Fatalf("the master-secret file: %v", err)
		}
		secret := file.Secrets[0].Secret
		unreadable(t, f.disk, []byte(s.message), []byte(s.secret), []byte(s.kept), secret, []byte(base64.StdEncoding.EncodeToString(secret)))
	})
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
