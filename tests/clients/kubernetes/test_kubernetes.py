"""The manifests hold against the schemas of Kubernetes, strictly: an unknown field is an error."""

import copy
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

PATH = Path(__file__).parents[3] / "examples/kubernetes/codescaler.yaml"
DOCUMENTS = list(yaml.safe_load_all(PATH.read_text()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["kind"])
def test_the_schemas_accept_it(document):
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_the_schemas_refuse_a_field_that_is_not_there():
    broken = copy.deepcopy(DOCUMENTS[0])
    broken["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)
