// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

//go:embed smoke/smoke.yaml
var smokeObjects string

// kubectlTime bounds one run of it, on two busy processors without KVM.
const kubectlTime = 10 * time.Minute

// kubectl is what users have of a cluster.
type kubectl struct {
	kubeconfig, home string
}

// try runs kubectl and returns what it prints.
func (k *kubectl) try(ctx context.Context, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, kubectlTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Getenv(kubectlEnv))
	cmd.Args = append([]string{"kubectl"}, args...)
	cmd.Env = []string{"KUBECONFIG=" + k.kubeconfig, "HOME=" + k.home}
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", errors.Join(err, errors.New(stderr.String()))
	}
	return stdout.String(), nil
}

func (k *kubectl) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := k.try(t.Context(), "", args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(out)
}

// json runs kubectl and reads what it prints.
func (k *kubectl) json(t *testing.T, into any, args ...string) {
	t.Helper()
	if !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--raw") }) {
		args = append(args, "--output=json")
	}
	if err := json.Unmarshal([]byte(k.run(t, args...)), into); err != nil {
		t.Fatal(err)
	}
}

// smoke is what a user does with a cluster: a Deployment behind a Service, with a
// ConfigMap, a Secret and a volume.
type smoke struct {
	*kubectl
	images                map[string]string // of the component set, by name
	message, secret, kept string
}

func newSmoke(k *kubectl, images map[string]string) *smoke {
	return &smoke{kubectl: k, images: images, message: "message-" + rand.Text(), secret: "secret-" + rand.Text(), kept: "kept-" + rand.Text()}
}

// deploy makes everything, and waits until it runs.
func (s *smoke) deploy(t *testing.T) {
	t.Helper()
	text := strings.NewReplacer("IMAGE", s.images["smoke"], "MESSAGE", s.message, "SECRET", s.secret).Replace(smokeObjects)
	if _, err := s.try(t.Context(), text, "apply", "--server-side", "--filename=-"); err != nil {
		t.Fatal(err)
	}
	s.await(t)
	s.run(t, "exec", "deployment/web", "--", "/usr/bin/smoke", "write", "/files/kept/file", s.kept)
}

// await waits until the pods run. It says what it waited for.
func (s *smoke) await(t *testing.T) {
	t.Helper()
	start := time.Now()
	for _, args := range [][]string{
		{"rollout", "status", "deployment/web", "--timeout=8m"},
		{"wait", "--for=condition=Ready", "pod/inspector", "--timeout=8m"},
	} {
		if _, err := s.try(t.Context(), "", args...); err != nil {
			events, _ := s.try(t.Context(), "", "get", "pods,events")
			t.Fatalf("%v\n%s", err, events)
		}
	}
	t.Logf("%6.1f s  the user's pods run", time.Since(start).Seconds())
}

// inspect runs a tool in the pod that sees the node's files.
func (s *smoke) inspect(t *testing.T, args ...string) string {
	t.Helper()
	return s.run(t, append([]string{"exec", "inspector", "--", "/usr/bin/smoke"}, args...)...)
}

const web = "http://web.default.svc.cluster.local"

// check wants everything to be as it was deployed.
func (s *smoke) check(t *testing.T) {
	t.Run("service", s.checkService)
	t.Run("files", func(t *testing.T) {
		for path, want := range map[string]string{"/message/message": s.message, "/secret/secret": s.secret, "/kept/file": s.kept} {
			if got := s.inspect(t, "get", web+path); got != want {
				t.Errorf("%s is %q, want %q", path, got, want)
			}
		}
	})
	t.Run("logs", func(t *testing.T) {
		if got := s.run(t, "logs", "deployment/web"); !strings.Contains(got, "smoke serves on port 8080 of web-") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("secrets in etcd", s.checkEtcd)
	t.Run("no shell", func(t *testing.T) {
		if got := s.inspect(t, "named", "/node", "sh", "bash", "dash", "ash", "busybox", "toybox", "zsh", "python3", "perl"); got != "" {
			t.Errorf("the node has %s", got)
		}
		// The same search finds what is there.
		if got := s.inspect(t, "named", "/node", "kubelet"); !strings.Contains(got, "/bin/kubelet") {
			t.Errorf("the search is blind: %q", got)
		}
	})
	t.Run("pinned images", s.checkImages)
	t.Run("resources", s.checkResources)
	for line := range strings.Lines(s.inspect(t, "get", "http://127.0.0.1:2381/metrics")) {
		if strings.HasPrefix(line, "etcd_disk_wal_fsync_duration_seconds_") && !strings.Contains(line, "bucket") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// What a cluster of one node may use, in bytes.
const (
	maxNodeMemory     = 1536 << 20
	maxServicesMemory = 96 << 20 // of our own services together
)

// usage is how much somebody uses of memory, and has used of the processors.
type usage struct {
	Memory struct{ WorkingSetBytes int64 }
	CPU    struct{ UsageCoreNanoSeconds int64 }
}

func (u usage) String() string {
	return fmt.Sprintf("%6.1f MiB, %6.1f s of processor", float64(u.Memory.WorkingSetBytes)/(1<<20), time.Duration(u.CPU.UsageCoreNanoSeconds).Seconds())
}

// checkResources wants little memory to be used: what the kernel could not take back.
func (s *smoke) checkResources(t *testing.T) {
	var summary struct {
		Node struct {
			usage
			SystemContainers []struct {
				usage
				Name string
			}
		}
		Pods []struct {
			usage
			PodRef struct{ Name, Namespace string }
		}
	}
	node := s.run(t, "get", "nodes", "--output=jsonpath={.items[0].metadata.name}")
	s.json(t, &summary, "get", "--raw=/api/v1/nodes/"+node+"/proxy/stats/summary")
	t.Logf("%v: the node", summary.Node.usage)
	for _, c := range summary.Node.SystemContainers {
		t.Logf("%v: %s", c.usage, c.Name)
	}
	var services int64
	for _, p := range summary.Pods {
		t.Logf("%v: %s/%s", p.usage, p.PodRef.Namespace, p.PodRef.Name)
		for _, ours := range []string{"keyservice-", "joinservice-", "verificationservice-"} {
			if strings.HasPrefix(p.PodRef.Name, ours) {
				services += p.Memory.WorkingSetBytes
			}
		}
	}
	if used := summary.Node.Memory.WorkingSetBytes; used == 0 || used > maxNodeMemory {
		t.Errorf("the node uses %d bytes", used)
	}
	if services == 0 || services > maxServicesMemory {
		t.Errorf("our services use %d bytes", services)
	}
}

// checkService wants the name to be resolved, and both pods to answer.
func (s *smoke) checkService(t *testing.T) {
	want := strings.Fields(s.run(t, "get", "pods", "--selector=app=web", "--output=jsonpath={.items[*].metadata.name}"))
	slices.Sort(want)
	seen := map[string]bool{}
	for range 40 {
		if seen[s.inspect(t, "get", web+"/name")] = true; len(seen) == len(want) {
			break
		}
	}
	if got := slices.Sorted(maps.Keys(seen)); len(want) != 2 || !slices.Equal(got, want) {
		t.Errorf("of the pods %v those answer: %v", want, got)
	}
}

// checkEtcd looks for the Secret's text in etcd's files, where a ConfigMap's is.
func (s *smoke) checkEtcd(t *testing.T) {
	const etcd = "/node/var/lib/etcd"
	for text, there := range map[string]bool{
		s.message: true, s.secret: false, "/registry/secrets/default/secret": true, "k8s:enc:kms:v2:constellation:": true,
	} {
		if got := s.inspect(t, "find", etcd, text); (got != "0") != there {
			t.Errorf("%s files of etcd contain %q", got, text)
		}
	}
}

// checkImages wants every container to be of the component set, by its digest.
func (s *smoke) checkImages(t *testing.T) {
	var pods corev1.PodList
	s.json(t, &pods, "get", "pods", "--all-namespaces")
	known := slices.Collect(maps.Values(s.images))
	n := 0
	for _, p := range pods.Items {
		for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
			if n++; !slices.Contains(known, c.Image) || !strings.Contains(c.Image, "@sha256:") || c.ImagePullPolicy != corev1.PullNever {
				t.Errorf("%s/%s: %s is %s (%s)", p.Namespace, p.Name, c.Name, c.Image, c.ImagePullPolicy)
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d containers", n)
	}
}

// unreadable wants no text that only the cluster knows to be on a disk.
func unreadable(t *testing.T, path string, texts ...[]byte) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	longest := 0
	for _, text := range texts {
		longest = max(longest, len(text))
	}
	var written int64
	buffer := make([]byte, longest+4<<20)
	for at := int64(0); ; {
		from, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // nothing is written from here on
		}
		n := 0
		if err == nil {
			n, err = f.ReadAt(buffer, from)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		for _, text := range texts {
			if i := bytes.Index(buffer[:n], text); i >= 0 {
				t.Errorf("at byte %d of %s is %q in the clear", from+int64(i), path, text)
			}
		}
		if n <= longest {
			break
		}
		// A text may begin here and end in what is read next.
		at = from + int64(n-longest)
		written += int64(n - longest)
	}
	if written < 64<<20 {
		t.Errorf("only %d bytes of %s are written", written, path)
	}
}
