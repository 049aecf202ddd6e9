"""ImageNet classifiers: right on the sample photos, and clear about files that are none of theirs."""

from course_utils import data, models


def test_the_default_classifier_knows_the_cat_and_the_coffee():
    photos = data.load_photos()
    top = models.top5(models.load_classifier(), data.preprocess([photos["chelsea"], photos["coffee"]]))
    first = top.groupby("image").label.first()
    assert first[0] in ("Egyptian cat", "tabby", "tiger cat")
    assert first[1] == "espresso"
