// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

// TestEventsAreBounded: a flood of one kind is left out, counted, and keeps no other out;
// what was recorded is written before the service ends; a long text is cut.
func TestEventsAreBounded(t *testing.T) {
	written := map[string]int{}
	longest := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e struct{ Reason, Message string }
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil || r.URL.Path != "/api/v1/namespaces/kube-system/events" {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		written[e.Reason]++
		longest = max(longest, len(e.Message))
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		w.Write([]byte(`{"kind":"Event","apiVersion":"v1"}`))
	}))
	defer server.Close()
	m := NewMetrics()
	e, err := newEvents(&rest.Config{Host: server.URL}, m, "control-1")
	if err != nil {
		t.Fatal(err)
	}
	const flood = 10 * eventBurst
	for range flood {
		e.Record(Event{Warning: true, Reason: "MachineRefused", Note: strings.Repeat("x", 5000)})
	}
	e.Record(Event{Reason: "JoinGranted", Note: "node worker-1"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e.run(ctx)
	if written["JoinGranted"] != 1 || written["MachineRefused"] < eventBurst || written["MachineRefused"] > eventBurst+5 {
		t.Errorf("written: %v", written)
	}
	if longest > maxNote+len("…") {
		t.Errorf("a text of %d bytes", longest)
	}
	left := metric(t, m, `events_total{result="left-out"}`)
	if int(left) != flood-written["MachineRefused"] || metric(t, m, `events_total{result="written"}`) != float64(written["MachineRefused"]+1) {
		t.Errorf("%v are counted as left out", left)
	}
	server.Close()
	e.Record(Event{Reason: "JoinRefused"})
	e.run(ctx)
	if n := metric(t, m, `events_total{result="failed"}`); n != 1 {
		t.Errorf("%v are counted as failed", n)
	}
}
