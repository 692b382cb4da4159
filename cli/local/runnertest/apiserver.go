// SPDX-License-Identifier: Apache-2.0

package runnertest

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
	"github.com/constellation-os/constellation/services/provider"
)

// apiServer knows nodes, and in the namespace of bindings a ConfigMap for the name of
// each and one for the machine. There is one for all control planes: what etcd would be.
// The object of a control plane's machine goes if another one is there that lets it go.
type apiServer struct {
	mu       sync.Mutex
	nodes    map[string]bool // ready
	bindings map[string]corev1.ConfigMap
	policy   string
}

func (s *apiServer) setPolicy(document []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.policy = string(document)
}

// grants says whether the policy lets a machine be what it is meant to be. As in a
// cluster, the role of a control plane is for those that it lists.
func (s *apiServer) grants(self provider.Self) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := policy.Parse([]byte(s.policy))
	return self.Role == provider.Worker || err == nil && d.Reserved(self.Name)
}

// setNode adds a node, or says how one is.
func (s *apiServer) setNode(name string, role provider.Role, ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes == nil {
		s.nodes, s.bindings = map[string]bool{}, map[string]corev1.ConfigMap{}
	}
	if _, there := s.nodes[name]; !there && !ready {
		return // it was removed
	}
	s.nodes[name] = ready
	for _, object := range []string{"name-" + name, "node-" + name} {
		s.bindings[object] = corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: object, Namespace: bindings.Namespace}, Data: map[string]string{"device": "of " + name, "name": name},
		}
	}
	s.bindings["node-"+name].Data["role"] = string(role)
}

// unbind deletes an object of a binding. s.mu is held.
func (s *apiServer) unbind(name string) {
	m := s.bindings[name]
	if m.Data["role"] == string(provider.ControlPlane) && !slices.ContainsFunc(slices.Collect(maps.Values(s.bindings)), func(other corev1.ConfigMap) bool {
		return other.Name != name && other.Data["role"] == m.Data["role"] && s.nodes[other.Data["name"]]
	}) {
		m.Annotations = map[string]string{bindings.WhyStill: "etcd: unhealthy cluster"}
		s.bindings[name] = m
		return
	}
	delete(s.bindings, name)
}

// ServeHTTP implements http.Handler.
func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	const (
		nodesPath    = "/api/v1/nodes"
		bindingsPath = "/api/v1/namespaces/" + bindings.Namespace + "/configmaps"
		policyPath   = "/api/v1/namespaces/kube-system/configmaps/constellation-policy"
	)
	name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	switch r.Method + " " + r.URL.Path {
	case "GET " + nodesPath:
		list := corev1.NodeList{TypeMeta: metav1.TypeMeta{Kind: "NodeList", APIVersion: "v1"}}
		for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
			list.Items = append(list.Items, node(name, s.nodes[name]))
		}
		answer(w, list)
	case "GET " + bindingsPath:
		list := corev1.ConfigMapList{TypeMeta: metav1.TypeMeta{Kind: "ConfigMapList", APIVersion: "v1"}}
		for _, name := range slices.Sorted(maps.Keys(s.bindings)) {
			list.Items = append(list.Items, s.bindings[name])
		}
		answer(w, list)
	case "DELETE " + nodesPath + "/" + name:
		delete(s.nodes, name)
		answer(w, success())
	case "DELETE " + bindingsPath + "/" + name:
		s.unbind(name)
		answer(w, success())
	case "GET " + policyPath:
		answer(w, corev1.ConfigMap{
			TypeMeta:   metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"},
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "kube-system"}, Data: map[string]string{"policy.json": s.policy},
		})
	case "PUT " + policyPath:
		var m corev1.ConfigMap
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.policy = m.Data["policy.json"]
		answer(w, m)
	default:
		http.NotFound(w, r)
	}
}

func success() metav1.Status {
	return metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess}
}

func node(name string, ready bool) corev1.Node {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	return corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status, Message: "it is away"}}},
	}
}

func answer(w http.ResponseWriter, object any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(object)
}
