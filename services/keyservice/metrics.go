// SPDX-License-Identifier: Apache-2.0

package keyservice

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/constellation-os/constellation/keys"
)

// Metrics of the service. Labels come from closed sets, never from callers.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration prometheus.Histogram
	attempts *prometheus.HistogramVec
}

// NewMetrics makes metrics of their own.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "constellation_keyservice_requests_total",
			Help: "Requests for data keys, by purpose and by why they were refused; reason is empty for those that were not.",
		}, []string{"purpose", "reason"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "constellation_keyservice_request_duration_seconds",
			Help: "How long requests for data keys took.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}),
		attempts: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "constellation_keyservice_backend_attempt_duration_seconds",
			Help: "How long attempts at the KMS or the store took, by how they failed; class is empty for those that did not.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}, []string{"backend", "operation", "class"}),
	}
	m.registry.MustRegister(m.requests, m.duration, m.attempts, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// Observe is for the limits of a backend, "kms" or "store".
func (m *Metrics) Observe(backend string) func(operation string, class keys.Class, took time.Duration) {
	return func(operation string, class keys.Class, took time.Duration) {
		m.attempts.WithLabelValues(backend, operation, string(class)).Observe(took.Seconds())
	}
}

func (m *Metrics) request(purpose string, reason Reason, took time.Duration) {
	if _, err := keys.ParsePurpose(purpose); err != nil {
		purpose = "unknown"
	}
	m.requests.WithLabelValues(purpose, string(reason)).Inc()
	m.duration.Observe(took.Seconds())
}
