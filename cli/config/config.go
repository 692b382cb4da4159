// SPDX-License-Identifier: Apache-2.0

// Package config is the configuration file of a cluster, and the commands
// "constellation config".
//
// The file is YAML, versioned, and read strictly: what is not known, there twice, of
// the wrong type or missing is an error with its line, and every error of a file is
// reported at once. Nothing in it is secret. Paths in it are relative to its folder.
package config

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/kubernetes/network"
	"github.com/constellation-os/constellation/services/provider"
)

// Format names the format of a configuration file, and its version.
const Format = "constellation-config/v1"

// DefaultFile is where a configuration is made and looked for.
const DefaultFile = "constellation.yaml"

// MaxSize is that of a file in bytes.
const MaxSize = 1 << 20

// Config is what a cluster is to be.
type Config struct {
	// Format is the constant of that name.
	Format string `yaml:"format"`
	// Name of the cluster, for people: a DNS label.
	Name string `yaml:"name"`
	// Provider says what surrounds the machines: one of Providers.
	Provider string `yaml:"provider"`
	// Endpoint is HOST:PORT at which nodes and users reach the API servers.
	Endpoint string `yaml:"endpoint"`
	// APIServerNames are further names and addresses of them.
	APIServerNames []string    `yaml:"apiServerNames,omitempty"`
	Kubernetes     Kubernetes  `yaml:"kubernetes"`
	Attestation    Attestation `yaml:"attestation"`

	folder string
	lines  lines
}

// Kubernetes says which Kubernetes, and where it comes from.
type Kubernetes struct {
	// Version as Kubernetes writes it: v1.37.2.
	Version string `yaml:"version"`
	// Components is the file of the component set (components.json of a bundle).
	Components string `yaml:"components"`
	// Sources are base URLs of registries that have the components, the best first.
	Sources        []string `yaml:"sources"`
	PodNetwork     string   `yaml:"podNetwork"`
	ServiceNetwork string   `yaml:"serviceNetwork"`
}

// Attestation says what nodes must prove.
type Attestation struct {
	// Measurements are files with the measurements of accepted images.
	Measurements []string `yaml:"measurements"`
	// AcceptedUntil is the last day, or the moment, at which they are accepted.
	AcceptedUntil string `yaml:"acceptedUntil"`
	// Authorities are files with certificates, in PEM, of those who certify TPMs.
	Authorities []string `yaml:"authorities,omitempty"`
	// Inventory is a text file that lists TPMs: name, role, identity.
	Inventory string `yaml:"inventory,omitempty"`
	// FirstCome are the roles that machines may have which the inventory does not list:
	// "worker", or none.
	FirstCome []string `yaml:"firstCome,omitempty"`
}

// Providers that a configuration may name.
func Providers() []string { return []string{"qemu", "static"} }

// Defaults of a new configuration.
const (
	DefaultPodNetwork     = "10.244.0.0/16"
	DefaultServiceNetwork = "10.96.0.0/12"
)

// Path is where a file is that the configuration names.
func (c *Config) Path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(c.folder, name)
}

// NotAfter is the moment at which the measurements are accepted for the last time.
func (c *Config) NotAfter() (time.Time, error) { return parseDate(c.Attestation.AcceptedUntil) }

// parseDate reads a day, which ends at midnight UTC, or a moment.
func parseDate(s string) (time.Time, error) {
	if day, err := time.Parse(time.DateOnly, s); err == nil {
		return day.AddDate(0, 0, 1).Add(-time.Second), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%.80q is neither a day such as 2027-06-30 nor a moment such as 2027-06-30T12:00:00Z", s)
	}
	return t, nil
}

var versionPattern = regexp.MustCompile(`^v1\.[0-9]{1,3}\.[0-9]{1,3}$`)

// check says all that is wrong with the values.
func (c *Config) check() (out []Problem) {
	at := func(path string, err error) {
		if err != nil {
			out = append(out, Problem{Path: path, Text: err.Error()})
		}
	}
	failf := func(path, format string, args ...any) { at(path, fmt.Errorf(format, args...)) }
	at("name", provider.CheckName(c.Name))
	if !slices.Contains(Providers(), c.Provider) {
		failf("provider", "%.80q: want one of %s%s", c.Provider, strings.Join(Providers(), ", "), suggest(c.Provider, Providers()))
	}
	at("endpoint", network.CheckEndpoint(c.Endpoint))
	for i, name := range c.APIServerNames {
		at(fmt.Sprintf("apiServerNames[%d]", i), network.CheckHost(name))
	}
	c.Kubernetes.check(failf)
	c.Attestation.check(failf)
	return out
}

func (k *Kubernetes) check(failf func(path, format string, args ...any)) {
	if !versionPattern.MatchString(k.Version) {
		failf("kubernetes.version", "%.80q: want a version such as v1.37.2", k.Version)
	}
	if k.Components == "" {
		failf("kubernetes.components", "it names no file: a bundle has one, components.json")
	}
	if len(k.Sources) == 0 {
		failf("kubernetes.sources", "it names no source of components")
	}
	for i, s := range k.Sources {
		if !strings.HasPrefix(s, "http://") && !strings.HasPrefix(s, "https://") || strings.ContainsAny(s, " \t\n?#@") {
			failf(fmt.Sprintf("kubernetes.sources[%d]", i), "%.80q: want the base URL of a registry, http:// or https://, without credentials", s)
		}
	}
	if _, err := network.Parse(k.PodNetwork, k.ServiceNetwork); err != nil {
		failf("kubernetes", "%v", err)
	}
}

func (a *Attestation) check(failf func(path, format string, args ...any)) {
	if len(a.Measurements) == 0 {
		failf("attestation.measurements", "it names no file: nothing would be accepted")
	}
	if notAfter, err := parseDate(a.AcceptedUntil); err != nil {
		failf("attestation.acceptedUntil", "%v", err)
	} else if notAfter.Before(time.Now()) {
		failf("attestation.acceptedUntil", "%s is past: nothing would be accepted", a.AcceptedUntil)
	}
	if len(a.Authorities) == 0 && a.Inventory == "" {
		failf("attestation", "neither authorities nor an inventory: no TPM would be trusted")
	}
	a.checkFirstCome(failf)
}

func (a *Attestation) checkFirstCome(failf func(path, format string, args ...any)) {
	switch {
	case len(a.FirstCome) == 0:
	case len(a.FirstCome) > 1 || a.FirstCome[0] != policy.Worker:
		failf("attestation.firstCome", "%.80q: it can be [%s], or left out: other roles are for machines of the inventory", a.FirstCome, policy.Worker)
	case len(a.Authorities) == 0:
		failf("attestation.firstCome", "there are no authorities: nobody vouches for machines that the inventory does not list")
	}
}
