// SPDX-License-Identifier: Apache-2.0

// Command secretsprovider encrypts Kubernetes Secrets at rest for the API server
// of its node. It only wires.
package main

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/constellation-os/constellation/keys/managed"
	"github.com/constellation-os/constellation/keys/pkcs11"
	"github.com/constellation-os/constellation/services/keyservice/hardening"
	"github.com/constellation-os/constellation/services/keyservice/secretsprovider"
)

func main() {
	path := flag.String("config", "/run/constellation/secretsprovider.json", "configuration file")
	flag.Parse()
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stdout, nil)))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *path)
	stop()
	if err != nil {
		slog.Error("secretsprovider failed", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, path string) error {
	if err := hardening.NoDumps(); err != nil {
		return err
	}
	config, err := secretsprovider.LoadConfig(path)
	if err != nil {
		return err
	}
	cipher, closeKeys, err := config.Open(ctx, managed.Backends{
		KMS: map[string]func(context.Context, string) (managed.KMS, error){pkcs11.Scheme: pkcs11.Open},
	})
	if err != nil {
		return err
	}
	defer closeKeys()
	listener, err := secretsprovider.Listen(config.Socket)
	if err != nil {
		return err
	}
	slog.Info("secretsprovider listens", "socket", config.Socket)
	// Without systemd there is nobody to tell.
	daemon.SdNotify(false, daemon.SdNotifyReady)
	return secretsprovider.New(cipher, slog.Default()).Serve(ctx, listener)
}
