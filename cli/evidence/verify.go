// SPDX-License-Identifier: Apache-2.0

package evidence

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/measurements"
)

const maxSecretSize = 4 << 10

// verifyFlags are the command's flags.
type verifyFlags struct {
	policy       string
	nonce        func() (attestation.Binding, error)
	secret       string
	response     string
	measurements []string
	events       bool
}

func verifyCommand() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify EVIDENCE --policy FILE --nonce NONCE --secret FILE --response FILE",
		Short: "Judge evidence by a policy",
		Long: `verify says whether EVIDENCE fulfils the policy, and what it proves: the claims. Or it
says for which reason it is refused, and what to do next. All that the evidence is
compared with comes from the policy and from you.

The secret is what challenge kept, the response what the machine answered. Without
them the evidence is judged all the same, but at best refused with challenge-missing.

With --measurements, the predictions of images, a machine that booted something
else is compared event by event with the closest one. They explain, and decide nothing.

Exit codes: 0 accepted, 1 refused, 2 nothing was judged: wrong usage, a broken policy
or secret, a file that cannot be read.`,
		Example: `  constellation evidence verify evidence.json --policy policy.json --nonce $nonce \
      --secret secret.json --response response
  constellation evidence verify evidence.json --policy policy.json --nonce $nonce \
      --secret secret.json --response response --output json | jq .claims.grant
  constellation evidence verify evidence.json --policy policy.json --nonce $nonce --measurements measurements.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.run(cmd, args[0])
			if err != nil {
				return err
			}
			return r.write(cmd, f.events)
		},
	}
	f.nonce = nonceFlag(cmd)
	cmd.Flags().StringVar(&f.policy, "policy", "", "the policy to judge by")
	cmd.MarkFlagRequired("policy")
	cmd.Flags().StringVar(&f.secret, "secret", "", "file that challenge kept")
	cmd.Flags().StringVar(&f.response, "response", "", "file with the machine's answer to the challenge")
	cmd.MarkFlagsRequiredTogether("secret", "response")
	cmd.Flags().StringArrayVar(&f.measurements, "measurements", nil, "measurements.json of an image, to explain refusals with; can be repeated")
	cmd.Flags().BoolVar(&f.events, "events", false, "list every event of the explanation")
	return cmd
}

// run judges. Its errors are about what the verifier brings; what the machine brings
// is in the result.
func (f *verifyFlags) run(cmd *cobra.Command, path string) (*result, error) {
	b, err := f.nonce()
	if err != nil {
		return nil, err
	}
	document, err := ReadPolicy(cmd, f.policy)
	if err != nil {
		return nil, err
	}
	predictions, err := ReadPredictions(cmd, f.measurements)
	if err != nil {
		return nil, err
	}
	v, err := tpm.NewVerifier(document, tpm.VerifierOptions{Predictions: predictions})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.policy, err)
	}
	pending, answer, refusal, err := f.readAnswer(cmd)
	if err != nil {
		return nil, err
	}
	e, malformed, err := readEvidence(cmd, path)
	if err != nil {
		return nil, err
	}
	r := &result{Policy: document.Digest, evidenceFile: path, policyFile: f.policy}
	if refusal = errors.Join(malformed, refusal); refusal == nil {
		r.Claims, refusal = v.VerifyAnswered(e, b, pending, answer)
	}
	if attestation.ReasonOf(refusal) == attestation.ReasonInternal {
		return nil, refusal
	}
	r.judge(refusal)
	return r, nil
}

// ReadPolicy reads a policy that a person named.
func ReadPolicy(cmd *cobra.Command, path string) (*policy.Document, error) {
	data, err := command.ReadInput(cmd, path, policy.MaxSize)
	if err != nil {
		return nil, err
	}
	d, err := policy.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w\nsee all that is wrong with it: constellation policy check %[1]s", path, err)
	}
	return d, nil
}

// ReadPredictions reads files measurements.json that a person named.
func ReadPredictions(cmd *cobra.Command, paths []string) (out []*measurements.Prediction, err error) {
	for _, path := range paths {
		data, err := command.ReadInput(cmd, path, measurements.MaxPredictionSize)
		if err != nil {
			return nil, err
		}
		p, err := measurements.ParsePrediction(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// readAnswer reads what the challenge left here, and what came back.
func (f *verifyFlags) readAnswer(cmd *cobra.Command) (p *tpm.Pending, answer []byte, refusal, err error) {
	if f.secret == "" {
		return nil, nil, nil, nil
	}
	kept, err := command.ReadInput(cmd, f.secret, maxSecretSize)
	if err != nil {
		return nil, nil, nil, err
	}
	if p, err = tpm.ParsePending(kept); err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", f.secret, err)
	}
	line, refusal, err := readBrought(cmd, f.response, maxLineSize)
	if refusal != nil || err != nil {
		return nil, nil, refusal, err
	}
	if answer, err = parseLine(line); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", f.response, err), nil
	}
	return p, answer, nil, nil
}
