// SPDX-License-Identifier: Apache-2.0

package secretsprovider

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	kmsapi "k8s.io/kms/apis/v2"

	"github.com/constellation-os/constellation/keys"
)

// What Status says, by the protocol.
const (
	protocolVersion = "v2"
	healthy         = "ok"
)

const (
	maxMessage   = 64 << 10
	shutdownTime = 10 * time.Second
)

// Provider implements the KMS v2 service.
type Provider struct {
	kmsapi.UnimplementedKeyManagementServiceServer
	cipher Cipher
	log    *slog.Logger
}

// New makes a provider.
func New(c Cipher, log *slog.Logger) *Provider { return &Provider{cipher: c, log: log} }

// Status names the newest key. kube-apiserver asks now and then, and has its keys
// encrypted anew when the name changes.
func (p *Provider) Status(ctx context.Context, _ *kmsapi.StatusRequest) (*kmsapi.StatusResponse, error) {
	keyID, err := p.cipher.Newest(ctx)
	if err != nil {
		return nil, p.refuse(ctx, "status", keyID, err)
	}
	if err := p.cipher.Health(ctx); err != nil {
		p.log.WarnContext(ctx, "unhealthy", "key", keyID, "reason", string(keys.ClassOf(err)), "error", err.Error())
	}
	return &kmsapi.StatusResponse{Version: protocolVersion, Healthz: healthy, KeyId: keyID}, nil
}

// Encrypt implements the service.
func (p *Provider) Encrypt(ctx context.Context, req *kmsapi.EncryptRequest) (*kmsapi.EncryptResponse, error) {
	if n := len(req.GetPlaintext()); n == 0 || n > maxPlaintext {
		return nil, p.refuse(ctx, "encrypt", "", keys.Errorf(keys.ClassInvalid, "a plaintext of %d bytes, want 1 to %d", n, maxPlaintext))
	}
	ciphertext, keyID, err := p.cipher.Encrypt(ctx, req.Plaintext)
	if err != nil {
		return nil, p.refuse(ctx, "encrypt", keyID, err)
	}
	p.log.InfoContext(ctx, "encrypted", "uid", req.GetUid(), "key", keyID)
	return &kmsapi.EncryptResponse{Ciphertext: ciphertext, KeyId: keyID}, nil
}

// Decrypt implements the service.
func (p *Provider) Decrypt(ctx context.Context, req *kmsapi.DecryptRequest) (*kmsapi.DecryptResponse, error) {
	plaintext, err := p.cipher.Decrypt(ctx, req.GetKeyId(), req.GetCiphertext())
	if err != nil {
		return nil, p.refuse(ctx, "decrypt", req.GetKeyId(), err)
	}
	p.log.InfoContext(ctx, "decrypted", "uid", req.GetUid(), "key", req.GetKeyId())
	return &kmsapi.DecryptResponse{Plaintext: plaintext}, nil
}

// refuse logs an error and makes it one of gRPC. The only caller is the API
// server, whose log should say what is wrong.
func (p *Provider) refuse(ctx context.Context, operation, keyID string, err error) error {
	class := keys.ClassOf(err)
	p.log.WarnContext(ctx, "refused", "operation", operation, "key", fmt.Sprintf("%.80s", keyID), "reason", string(class), "error", err.Error())
	code := codes.FailedPrecondition
	switch class {
	case keys.ClassInvalid:
		code = codes.InvalidArgument
	case keys.ClassUnreachable, keys.ClassTimeout, keys.ClassThrottled:
		code = codes.Unavailable
	case keys.ClassInternal:
		code = codes.Internal
	}
	return status.Error(code, err.Error())
}

// Listen makes the socket, mode 0600. One that a killed provider left is replaced;
// one that answers is not.
func Listen(path string) (net.Listener, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, keys.Errorf(keys.ClassExists, "%s is there and not a socket", path)
	default:
		conn, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			conn.Close()
			return nil, keys.Errorf(keys.ClassExists, "another provider answers on %s", path)
		}
		// One that is too busy to answer is there all the same.
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, keys.Errorf(keys.ClassExists, "%s may be another provider's: %w", path, err)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	// From the first moment on, nobody else may open it.
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	return net.Listen("unix", path)
}

// Serve answers until the context ends, then finishes what is under way.
func (p *Provider) Serve(ctx context.Context, l net.Listener) error {
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.ConnectionTimeout(10*time.Second))
	kmsapi.RegisterKeyManagementServiceServer(server, p)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	timer := time.AfterFunc(shutdownTime, server.Stop)
	defer timer.Stop()
	server.GracefulStop()
	return nil
}
