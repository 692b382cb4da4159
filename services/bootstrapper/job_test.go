// SPDX-License-Identifier: Apache-2.0

package bootstrapper

import (
	"context"
	"errors"
	"testing"
	"time"

	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// TestReminder: who watches a job at which nothing happens hears its last event again,
// and nothing before there was one.
func TestReminder(t *testing.T) {
	j := newJob("init", "", "")
	j.reminder = time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	enough := errors.New("enough")
	event := &api.Progress{Step: api.Step_STEP_DISK, State: api.Progress_STATE_STARTED}
	time.AfterFunc(20*time.Millisecond, func() { j.observe(event) })
	heard := 0
	err := j.watch(ctx, func(r *api.InitResponse) error {
		if r.GetProgress() != event {
			t.Errorf("heard %v", r)
		}
		if heard++; heard == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Errorf("the watch ended with %v", err)
	}
}
