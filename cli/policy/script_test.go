// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/policy"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/predict"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"constellation": func() {
			os.Exit(command.Run(context.Background(), command.New(policy.Command()), os.Args[1:], os.Stdout, os.Stderr))
		},
	})
}

// The scripts in testdata see the command as people do. They find the measurements
// of an image, and an authority for TPMs.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			image, err := imageMeasurements()
			if err != nil {
				return err
			}
			ca, err := authority()
			if err != nil {
				return err
			}
			for name, data := range map[string][]byte{"measurements.json": image, "ca.pem": ca} {
				if err := os.WriteFile(filepath.Join(env.WorkDir, name), data, 0o600); err != nil {
					return err
				}
			}
			return nil
		},
	})
}

func imageMeasurements() ([]byte, error) {
	disk := artifacttest.Disk(artifacttest.File{Path: artifacttest.BootFile, Content: artifacttest.DefaultUKI().Encode()})
	p, err := predict.Predict(predict.Input{
		Disk: bytes.NewReader(disk), DiskSize: int64(len(disk)), Machine: measurements.QEMU(),
		FirmwareCode: artifacttest.FirmwareCode(), FirmwareVariables: artifacttest.FirmwareVariables(),
	})
	if err != nil {
		return nil, err
	}
	return p.JSON()
}

func authority() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "TPM maker"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
}
