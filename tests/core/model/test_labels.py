from alexnet_deploy.core.model.labels import check_labels, imagenet_labels


def test_imagenet_has_1000_distinct_names_in_the_usual_order() -> None:
    labels = imagenet_labels()
    check_labels(labels, 1000)
    # First and last, and those whose position other sources print.
    known = {0: "tench", 207: "golden retriever", 281: "tabby", 388: "giant panda", 985: "daisy", 999: "toilet tissue"}
    assert {index: labels[index] for index in known} == known


def test_names_that_two_imagenet_classes_share_are_told_apart() -> None:
    labels = imagenet_labels()
    assert (labels[134], labels[517]) == ("crane bird", "crane")
    assert (labels[638], labels[639]) == ("maillot", "maillot tank suit")
