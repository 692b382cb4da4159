// SPDX-License-Identifier: Apache-2.0

// Command joinservice admits machines to the cluster. It only wires.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/google/go-tpm/tpm2/transport/linuxtpm"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/services/joinservice"
	"github.com/constellation-os/constellation/services/keyservice/hardening"
)

func main() {
	path := flag.String("config", "/etc/constellation/joinservice.json", "configuration file")
	flag.Parse()
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stdout, nil)))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *path)
	stop()
	if err != nil {
		slog.Error("joinservice failed", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, path string) error {
	if err := hardening.NoDumps(); err != nil {
		return err
	}
	config, err := joinservice.LoadConfig(path)
	if err != nil {
		return err
	}
	device, err := linuxtpm.Open(config.TPM)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not there: without a TPM this machine can prove to nobody what it booted", config.TPM)
	}
	if err != nil {
		return fmt.Errorf("open the TPM: %w", err)
	}
	defer device.Close()
	issuer, err := tpm.NewIssuer(device, tpm.IssuerOptions{EventLog: func() ([]byte, error) { return os.ReadFile(config.EventLog) }})
	if err != nil {
		return err
	}
	defer issuer.Close()
	service, err := joinservice.Listen(config, joinservice.Attestation{
		Issuer: issuer, Technology: tpm.Technology,
		Judge: func(d *policy.Document) (attestation.Verifier, error) {
			return tpm.NewVerifier(d, tpm.VerifierOptions{})
		},
	}, slog.Default())
	if err != nil {
		return err
	}
	slog.Info("joinservice listens", "address", service.Address(), "http", service.HTTPAddress())
	return service.Serve(ctx)
}
