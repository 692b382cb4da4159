// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"context"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/constellation-os/constellation/kubernetes/kubeclient"
	"github.com/constellation-os/constellation/services/joinservice/parameters"
	"github.com/constellation-os/constellation/services/limit"
)

// Bounds of events: those of one reason in a second and at once, so that a flood of one
// does not keep the others out; how many wait; how long the API server may take.
const (
	eventRate  = 1
	eventBurst = 25
	eventQueue = 256
	eventTime  = 5 * time.Second
	maxNote    = 1000 // bytes
)

// events writes Kubernetes events about the DaemonSet that this service is of:
//
//	kubectl -n kube-system events --for daemonset/joinservice
type events struct {
	client  rest.Interface
	metrics *Metrics
	host    string
	rates   *limit.Rates
	queue   chan Event
}

// newEvents makes one; host names this instance.
func newEvents(config *rest.Config, m *Metrics, host string) (*events, error) {
	client, err := kubeclient.New(config, corev1.SchemeGroupVersion, corev1.AddToScheme)
	if err != nil {
		return nil, err
	}
	return &events{client: client, metrics: m, host: host, rates: limit.NewRates(eventRate, eventBurst), queue: make(chan Event, eventQueue)}, nil
}

// Record implements [Recorder].
func (e *events) Record(v Event) {
	if e.rates.Allow(v.Reason) {
		select {
		case e.queue <- v:
			return
		default:
		}
	}
	e.metrics.events.WithLabelValues("left-out").Inc()
}

// run writes what was recorded until the context ends, and then what waits.
func (e *events) run(ctx context.Context) {
	for {
		select {
		case v := <-e.queue:
			e.write(v)
		case <-ctx.Done():
			for len(e.queue) > 0 {
				e.write(<-e.queue)
			}
			return
		}
	}
}

func (e *events) write(v Event) {
	ctx, cancel := context.WithTimeout(context.Background(), eventTime)
	defer cancel()
	result := "written"
	if err := e.client.Post().Namespace(parameters.Namespace).Resource("events").Body(e.object(v, time.Now())).MaxRetries(0).Do(ctx).Error(); err != nil {
		result = "failed"
		slog.Warn("an event could not be written", "reason", v.Reason, "error", err)
	}
	e.metrics.events.WithLabelValues(result).Inc()
}

func (e *events) object(v Event, now time.Time) *corev1.Event {
	kind := corev1.EventTypeNormal
	if v.Warning {
		kind = corev1.EventTypeWarning
	}
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: "joinservice-", Namespace: parameters.Namespace},
		InvolvedObject: corev1.ObjectReference{Kind: "DaemonSet", APIVersion: "apps/v1", Namespace: parameters.Namespace, Name: "joinservice"},
		Reason:         v.Reason, Message: clipTo(v.Note, maxNote), Type: kind, Count: 1,
		Source:         corev1.EventSource{Component: "joinservice", Host: e.host},
		FirstTimestamp: metav1.NewTime(now), LastTimestamp: metav1.NewTime(now),
	}
}
