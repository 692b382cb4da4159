// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/constellation-os/constellation/services/bootstrapper/journal"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

// Kubelet's credentials as a client of the API servers. currentPair is a link: kubelet
// renews the pair by itself, and lets the link lead to the newest (client-go,
// util/certificate). issuedPair is the one that a ticket has brought, or kubeadm has made.
const (
	kubeletConfig = kubernetesFolder + "/kubelet.conf"
	kubeletPKI    = "/var/lib/kubelet/pki"
	currentPair   = kubeletPKI + "/kubelet-client-current.pem"
	issuedPair    = kubeletPKI + "/kubelet-client-issued.pem"
)

// KubeletCredentials are those of a worker.
type KubeletCredentials struct {
	// Root is what paths are below: "/", but for tests.
	Root string
	// Endpoint is HOST:PORT of the API servers, Authority their authority in PEM.
	Endpoint  string
	Authority []byte
	// Certificate is a new one in DER, with its key; nil if there is none, so that what is
	// there must do.
	Certificate []byte
	Key         *ecdsa.PrivateKey
}

// Install implements steps.Credentials.
func (k *KubeletCredentials) Install() (steps.Outcome, error) {
	if len(k.Certificate) == 0 {
		return k.kept()
	}
	pair, err := k.pair()
	if err != nil {
		return steps.Done, err
	}
	defer clear(pair)
	config, err := k.kubeconfig()
	if err != nil {
		return steps.Done, err
	}
	files := Files(k.Root)
	outcome := steps.Skipped
	// What kubelet reads first comes last.
	for _, f := range []struct {
		path    string
		content []byte
	}{{authorityCert, k.Authority}, {issuedPair, pair}, {kubeletConfig, config}} {
		written, err := files.Write(f.path, f.content)
		if err != nil {
			return steps.Done, err
		}
		if written == steps.Done {
			outcome = steps.Done
		}
		if f.path == issuedPair {
			if err := linkIssued(k.Root); err != nil {
				return steps.Done, err
			}
		}
	}
	return outcome, Sync(filepath.Join(k.Root, kubeletPKI))
}

// kept wants credentials that are there.
func (k *KubeletCredentials) kept() (steps.Outcome, error) {
	if _, err := tls.LoadX509KeyPair(filepath.Join(k.Root, currentPair), filepath.Join(k.Root, currentPair)); err != nil {
		return steps.Done, fmt.Errorf("there is no new certificate, and what is there cannot be used: %w", err)
	}
	if _, err := os.Stat(filepath.Join(k.Root, kubeletConfig)); err != nil {
		return steps.Done, err
	}
	return steps.Skipped, nil
}

// pair is the certificate with its key, in PEM.
func (k *KubeletCredentials) pair() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.Key)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	var out bytes.Buffer
	err = errors.Join(pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: k.Certificate}), pem.Encode(&out, &pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return out.Bytes(), err
}

// linkIssued lets the current pair be the issued one.
func linkIssued(root string) error {
	current := filepath.Join(root, currentPair)
	next := filepath.Join(root, kubeletPKI, ".kubelet-client.next")
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Base(issuedPair), next); err != nil {
		return err
	}
	if err := os.Rename(next, current); err != nil {
		return err
	}
	return journal.SyncFolder(filepath.Dir(current))
}

// kubeconfig is kubelet's, as kubeadm leaves it.
func (k *KubeletCredentials) kubeconfig() ([]byte, error) {
	const cluster, user, use = "constellation", "kubelet", "kubelet@constellation"
	return clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{cluster: {Server: "https://" + k.Endpoint, CertificateAuthorityData: k.Authority}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{user: {ClientCertificate: currentPair, ClientKey: currentPair}},
		Contexts:       map[string]*clientcmdapi.Context{use: {Cluster: cluster, AuthInfo: user}},
		CurrentContext: use,
	})
}

// Renewable implements steps.KubernetesFiles. kubeadm would do it as well, when the API
// server is there, and start kubelet a second time for it.
func (k *Kubernetes) Renewable() error {
	path := filepath.Join(k.Root, kubeletConfig)
	config, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return err
	}
	for name, user := range config.AuthInfos {
		pair := bytes.Join([][]byte{user.ClientCertificateData, user.ClientKeyData}, []byte("\n"))
		defer clear(pair)
		if _, err := tls.X509KeyPair(pair, pair); err != nil {
			return fmt.Errorf("%s: user %s: %w", kubeletConfig, name, err)
		}
		if _, err := Files(k.Root).Write(issuedPair, pair); err != nil {
			return err
		}
		clear(user.ClientKeyData)
		user.ClientCertificateData, user.ClientKeyData = nil, nil
		user.ClientCertificate, user.ClientKey = currentPair, currentPair
	}
	if len(config.AuthInfos) != 1 {
		return fmt.Errorf("%s has %d users, want one", kubeletConfig, len(config.AuthInfos))
	}
	if err := linkIssued(k.Root); err != nil {
		return err
	}
	content, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	_, err = Files(k.Root).Write(kubeletConfig, content)
	return err
}
