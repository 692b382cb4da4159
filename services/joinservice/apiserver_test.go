// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package joinservice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/attestationtest"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/kubernetes/controlplanetest"
	"github.com/constellation-os/constellation/services/joinservice/parameters"
	"github.com/constellation-os/constellation/services/keyservice"
)

const (
	apiserverAudience = "https://kubernetes.default.svc"
	keyserviceName    = "keyservice.kube-system.svc"
)

// deployment is a cluster with both services' accounts and rights as their manifests
// have them, and a KeyService.
type deployment struct {
	*controlplanetest.Cluster
	*fixture
	config Config
	keys   *keyProcess
}

func deploy(t *testing.T) *deployment {
	t.Helper()
	c := controlplanetest.Start(t, "--allow-privileged=true") // as kubeadm has it
	d := &deployment{Cluster: c, fixture: &fixture{
		log: &safeBuffer{}, ring: keys.Generate(), pki: t.TempDir(),
		service: attestationtest.NewDevice("control plane"), unvouched: map[string]bool{},
	}}
	for _, path := range strings.Fields(os.Getenv("CONSTELLATION_MANIFESTS")) {
		c.Manifest(t, path)
	}
	c.WaitUntilAllowed(t, "kube-system", "joinservice", "create", "", "configmaps", "constellation-nodes")
	c.WaitUntilAllowed(t, "kube-system", "joinservice", "create", "", "events", "kube-system")
	c.WaitUntilAllowed(t, "kube-system", "joinservice", "list", "certificates.k8s.io", "certificatesigningrequests", "")
	c.WaitUntilAllowed(t, "kube-system", "keyservice", "create", "authentication.k8s.io", "tokenreviews", "")
	var err error
	if d.cluster, err = d.ring.ClusterID(); err != nil {
		t.Fatal(err)
	}
	d.ca = writePKI(t, d.pki) // of devices; the cluster's own takes its place in the folder
	for from, to := range map[string]string{c.PKI().CAFile: "ca.crt", c.PKI().CAKeyFile: "ca.key"} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(d.pki, to), data)
	}
	d.keys = d.startKeyService(t)
	d.config = Config{
		Listen: "127.0.0.1:0", HTTP: "127.0.0.1:0", PKI: d.pki, MasterSecret: d.keys.config.MasterSecret, TPM: "none", EventLog: "none",
		KeyService: KeyService{Address: d.keys.config.Listen, ServerName: keyserviceName, CA: c.CAFile(), Token: filepath.Join(t.TempDir(), "token")},
		Kubeconfig: c.Kubeconfig(t, c.Token(t, "kube-system", "joinservice", apiserverAudience)),
		Limits:     generous(),
	}
	write(t, d.config.KeyService.Token, []byte(c.Token(t, "kube-system", "joinservice", keyservice.DefaultAudience)))
	return d
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// keyProcess is KeyService as it ships.
type keyProcess struct {
	config  keyservice.Config
	path    string
	process *exec.Cmd
}

func (d *deployment) startKeyService(t *testing.T) *keyProcess {
	t.Helper()
	certFile, keyFile := d.PKI().Issue(t, "keyservice", keyserviceName)
	k := &keyProcess{path: filepath.Join(t.TempDir(), "keyservice.json"), config: keyservice.Config{
		Listen: freeAddress(t), HTTP: "127.0.0.1:0", Certificate: certFile, PrivateKey: keyFile, Audience: keyservice.DefaultAudience,
		Kubeconfig: d.Kubeconfig(t, d.Token(t, "kube-system", "keyservice", apiserverAudience)),
		Grants:     []keyservice.Grant{{ServiceAccount: "kube-system/joinservice", Purposes: []string{"state-disk", "measurement"}}},
		Limits:     keyservice.DefaultLimits(),
	}}
	k.config.MasterSecret = filepath.Join(t.TempDir(), "master.json")
	if err := d.ring.Create(k.config.MasterSecret); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(k.config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, k.path, data)
	k.start(t)
	t.Cleanup(k.kill)
	return k
}

// start runs the program. A client finds out when it answers: it tries again.
func (k *keyProcess) start(t *testing.T) {
	t.Helper()
	k.process = exec.Command(os.Getenv("CONSTELLATION_KEYSERVICE"), "-config", k.path)
	k.process.Stderr = os.Stderr
	k.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := k.process.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "KeyService", func() bool { return listens(k.config.Listen) })
}

func (k *keyProcess) kill() {
	k.process.Process.Kill()
	k.process.Wait()
}

// instance is one JoinService of the cluster.
type instance struct {
	*Service
	end func() error
}

// run starts a JoinService until the test ends. f.address is the last one's.
func (d *deployment) run(t *testing.T) *instance {
	t.Helper()
	s, err := Listen(&d.config, Attestation{
		Issuer: d.service, Technology: attestationtest.Technology,
		Judge: func(doc *policy.Document) (attestation.Verifier, error) { return &judge{d.fixture, doc}, nil },
	}, slog.New(slog.NewJSONHandler(d.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	i := &instance{Service: s}
	ended := false
	i.end = func() error {
		if ended {
			return nil
		}
		ended = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if err := i.end(); err != nil {
			t.Error(err)
		}
	})
	d.address, d.Server = s.Address(), s.server
	return i
}

// ready is what the service says of itself.
func (i *instance) ready(t testing.TB) (string, bool) {
	t.Helper()
	resp, err := http.Get("http://" + i.HTTPAddress() + "/readyz")
	if err != nil {
		return err.Error(), false
	}
	defer resp.Body.Close()
	text := make([]byte, 200)
	n, _ := resp.Body.Read(text)
	return strings.TrimSpace(string(text[:n])), resp.StatusCode == http.StatusOK
}

// object is a ConfigMap in kube-system.
func object(name string, data map[string]string) map[string]any {
	o := controlplanetest.Named(name)
	o["data"] = data
	return o
}

const configMaps = "/api/v1/namespaces/kube-system/configmaps"

// put changes the policy.
func (d *deployment) put(t testing.TB, policy []byte) {
	t.Helper()
	if err := d.Do(t.Context(), http.MethodPut, configMaps+"/"+parameters.PolicyMap, object(parameters.PolicyMap, map[string]string{parameters.FieldPolicy: string(policy)}), nil); err != nil {
		t.Fatal(err)
	}
}

// configure creates both ConfigMaps.
func (d *deployment) configure(t testing.TB, policy []byte) {
	t.Helper()
	d.Create(t, configMaps, object(parameters.PolicyMap, map[string]string{parameters.FieldPolicy: string(policy)}))
	d.Create(t, configMaps, (&parameters.Cluster{
		Name: "example", Endpoint: "10.0.0.1:6443", PodNetwork: "10.244.0.0/16", ServiceNetwork: "10.96.0.0/12",
		Salt: d.ring.Salt(), Components: []byte(`{"components":[]}`), Sources: []string{"http://10.0.0.1:5000"},
	}).ConfigMap().Object)
}

// nodes lists the names of the bindings.
func (d *deployment) nodes(t testing.TB) (names []string) {
	t.Helper()
	var list struct {
		Items []struct{ Metadata struct{ Name string } }
	}
	if err := d.Do(t.Context(), http.MethodGet, "/api/v1/namespaces/constellation-nodes/configmaps", nil, &list); err != nil {
		t.Fatal(err)
	}
	for _, o := range list.Items {
		names = append(names, o.Metadata.Name)
	}
	return names
}

// event waits for one whose text starts so.
func (d *deployment) event(t testing.TB, kind, reason, text string) {
	t.Helper()
	waitFor(t, "an event "+reason+", "+text, func() bool {
		var list struct {
			Items []struct{ Type, Reason, Message string }
		}
		if err := d.Do(t.Context(), http.MethodGet, "/api/v1/namespaces/kube-system/events?fieldSelector=involvedObject.name%3Djoinservice,reason%3D"+reason, nil, &list); err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			if e.Type == kind && strings.HasPrefix(e.Message, text) {
				return true
			}
		}
		return false
	})
}

// mergePatch changes a part of an object, as kubectl patch --type=merge does.
func mergePatch(t testing.TB, config *rest.Config, path string, patch any) error {
	t.Helper()
	data, err := json.Marshal(patch)
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, config.Host+path, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/merge-patch+json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}
