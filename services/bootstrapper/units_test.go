// SPDX-License-Identifier: Apache-2.0

package bootstrapper

import (
	"os"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/kubernetes/kubeadm"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

// TestUnitsFit: units name the files that the steps write.
func TestUnitsFit(t *testing.T) {
	config := kubeadm.ConfigFile(kubeadm.DefaultDirectory)
	for unit, wants := range map[string][]string{
		"units/" + steps.KubeletService:       {"ConditionPathExists=" + steps.KubeletGate, "StartLimitIntervalSec=0", "Restart=always"},
		"units/" + steps.KubeadmFilesService:  {"AssertPathExists=" + config, "Type=oneshot"},
		"units/" + steps.KubeadmFinishService: {"AssertPathExists=" + config, "Type=oneshot"},
		"../keyservice/secretsprovider/" + steps.SecretsProviderService: {
			"ConditionPathExists=" + steps.SecretsProviderConfig, "RuntimeDirectory=constellation/secretsprovider", "RuntimeDirectoryPreserve=yes",
			"ExecStart=/usr/bin/secretsprovider -config " + steps.SecretsProviderConfig,
		},
		"bootstrapper.service": {"Type=notify", "WatchdogSec=120", "CapabilityBoundingSet=", "RuntimeDirectory=constellation", "RuntimeDirectoryPreserve=yes"},
	} {
		content, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if !strings.Contains(string(content), "\n"+want+"\n") {
				t.Errorf("%s has no %s", unit, want)
			}
		}
		if strings.Contains(string(content), "\n[Install]\n") != (unit == "bootstrapper.service") {
			t.Errorf("%s: only the bootstrapper starts at boot", unit)
		}
	}
	if steps.SecretsProviderSocket != kubeadm.SecretsProviderSocket {
		t.Errorf("the API server looks for the secrets provider at %s", kubeadm.SecretsProviderSocket)
	}
}
