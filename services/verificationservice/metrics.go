// SPDX-License-Identifier: Apache-2.0

package verificationservice

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// metrics of the service. Labels come from closed sets, never from callers.
type metrics struct {
	registry   *prometheus.Registry
	requests   *prometheus.CounterVec
	operations *prometheus.HistogramVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "constellation_verificationservice_requests_total",
			Help: "Requests by transport and operation, and by why they were refused; reason is empty for those that were not.",
		}, []string{"transport", "operation", "reason"}),
		operations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "constellation_verificationservice_tpm_duration_seconds",
			Help: "How long the TPM took, by operation.", Buckets: prometheus.ExponentialBuckets(0.002, 3, 9),
		}, []string{"operation"}),
	}
	m.registry.MustRegister(m.requests, m.operations, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) operation(name string, took time.Duration) {
	m.operations.WithLabelValues(name).Observe(took.Seconds())
}
