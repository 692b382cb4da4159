// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// SecretsProviderService encrypts Secrets at rest for the API server.
const SecretsProviderService = "secretsprovider.service"

// Where the services that hold the master secret find it, in memory.
const (
	MasterSecretFile      = "/run/constellation/keyservice/master/master-secret.json"
	SecretsProviderConfig = "/run/constellation/secretsprovider.json"
	SecretsProviderSocket = "/run/constellation/secretsprovider/kms.sock"
)

// Files are those of this machine.
type Files interface {
	// Write writes a file whole, root's alone, and says [Skipped] if it is there with this
	// content. Folders that are missing it makes, root's alone too.
	Write(path string, content []byte) (Outcome, error)
}

// Secrets gives KeyService and the secrets provider the master secret. It stays in
// memory: /run is no disk, and this system has no swap.
type Secrets struct {
	Files   Files
	Units   Units
	Keyring *keys.Keyring
}

// ID implements [Step].
func (*Secrets) ID() api.Step { return api.Step_STEP_SECRETS }

// Run implements [Step].
func (s *Secrets) Run(ctx context.Context, _ Report) (Outcome, error) {
	content, err := s.Keyring.Marshal()
	if err != nil {
		return Done, err
	}
	defer clear(content)
	outcome, err := s.Files.Write(MasterSecretFile, content)
	if err != nil {
		return Done, fmt.Errorf("hand over the master secret: %w", err)
	}
	config, err := json.Marshal(map[string]string{"socket": SecretsProviderSocket, "master_secret": MasterSecretFile})
	if err != nil {
		return Done, err
	}
	configured, err := s.Files.Write(SecretsProviderConfig, config)
	if err != nil {
		return Done, fmt.Errorf("configure the secrets provider: %w", err)
	}
	started, err := ensure(ctx, s.Units, SecretsProviderService)
	return both(both(outcome, configured), started), err
}
