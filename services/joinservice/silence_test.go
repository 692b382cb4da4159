// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	api "github.com/constellation-os/constellation/services/api/joinservice"
)

// TestV16LastGranted: whoever collects the metrics sees when the service last granted
// something of a kind. Refusals do not count, so that one that only refuses shows.
func TestV16LastGranted(t *testing.T) {
	f := start(t, nil)
	f.load(t, f.document(t, true, f.usual()))
	w := httptest.NewRecorder()
	f.Metrics.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	const name = `last_granted_timestamp_seconds{request="join-ticket"}`
	if strings.Contains(w.Body.String(), name) {
		t.Error("it says when it granted what it never did")
	}
	c, before := f.connect(t, f.device(image)), time.Now()
	if _, err := c.IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0)); err != nil {
		t.Fatal(err)
	}
	granted := metric(t, f.Metrics, name)
	if at := time.UnixMilli(int64(granted * 1000)); at.Before(before.Add(-time.Second)) || at.After(time.Now().Add(time.Second)) {
		t.Errorf("the last one was granted at %v, and it was at %v", at, before)
	}
	_, err := c.IssueJoinTicket(t.Context(), join(diskA, "worker-1", api.Role_ROLE_CONTROL_PLANE))
	f.wantRefusal(t, err, codes.PermissionDenied, "role")
	if now := metric(t, f.Metrics, name); now != granted {
		t.Errorf("a refusal counts as granted: %v, %v", granted, now)
	}
}
