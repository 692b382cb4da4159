// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics of the service. Labels come from closed sets, never from callers.
type Metrics struct {
	registry   *prometheus.Registry
	requests   *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	granted    *prometheus.GaugeVec
	handshakes *prometheus.CounterVec
	loads      *prometheus.CounterVec
	loaded     *prometheus.GaugeVec
	events     *prometheus.CounterVec
}

// NewMetrics makes metrics of their own.
func NewMetrics() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "constellation_joinservice_" + name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "constellation_joinservice_" + name, Help: help}, labels)
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: counter("requests_total", "Requests, by kind and by why they were refused; reason is empty for those that were not.", "request", "reason"),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "constellation_joinservice_request_duration_seconds",
			Help: "How long requests took, after the handshake.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}, []string{"request"}),
		granted:    gauge("last_granted_timestamp_seconds", "When a request of a kind was last granted.", "request"),
		handshakes: counter("handshakes_total", "Attested handshakes, by why they failed; reason is empty for those that did not.", "reason"),
		loads:      counter("configuration_loads_total", "New versions of the policy and the cluster's parameters, by whether they could be used.", "object", "result"),
		loaded:     gauge("configuration_usable", "Whether the newest version of the policy, or of the cluster's parameters, is the one in use.", "object"),
		events:     counter("events_total", "Kubernetes events, by what became of them.", "result"),
	}
	m.registry.MustRegister(m.requests, m.duration, m.granted, m.handshakes, m.loads, m.loaded, m.events,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

func (m *Metrics) request(kind string, reason Reason, took time.Duration) {
	m.requests.WithLabelValues(kind, string(reason)).Inc()
	m.duration.WithLabelValues(kind).Observe(took.Seconds())
	if reason == "" {
		m.granted.WithLabelValues(kind).SetToCurrentTime()
	}
}

func (m *Metrics) load(object string, err error) {
	result, usable := "used", 1.0
	if err != nil {
		result, usable = "refused", 0
	}
	m.loads.WithLabelValues(object, result).Inc()
	m.loaded.WithLabelValues(object).Set(usable)
}
